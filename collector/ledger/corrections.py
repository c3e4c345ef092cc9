"""Corrections of counted bytes: voids and adjustments, their lines, and their effect per user.

The totals stay as they are; a correction is stored separately. For each voided report, and for each
adjustment, there is a line with the bytes that are added to the sums; they are negative if
subtracted. See docs/decisions/0018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

CORRECTED_REPORTS = 5_000
"""The most reports that one commit voids."""
SCANNED_REPORTS = 50_000
"""The most reports that one commit reads for it, since commits of reports wait meanwhile."""
SCOPE = "correction:"
"""The prefix of the scope of a correction's rows in the table of reports; no sender has it."""
ADJUSTMENT_SERVER = "adjustment"
ADJUSTMENT_PORT = 0
ADJUSTMENT_PROTOCOL = "none"


class Kind(StrEnum):
    """The kind of a correction."""

    VOID = "void"
    """Stored reports are subtracted from all sums."""
    ADJUST = "adjust"
    """An amount is added to a user's sums, or subtracted."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A requested correction."""

    kind: Kind
    reason: str
    actor: str
    """Who requested it."""
    username: str | None = None
    """The user to correct; None voids reports of all users. An adjustment has a user."""
    scope: str | None = None
    """Who reported what is voided, as `reporter:NAME`."""
    since_millis: int | None = None
    """A void: received at or after. An adjustment: of which moment it is; None is now."""
    until_millis: int | None = None
    """A void: received before."""
    raw_bytes: int = 0
    """An adjustment: what is added, negative for what is taken off."""
    billed_bytes: int = 0
    server: str | None = None
    """An adjustment: to which series it is added."""
    port: int | None = None
    protocol: str | None = None


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """A correction and what came of it so far."""

    number: int
    wanted: Wanted
    asked_at_millis: int
    done_at_millis: int | None = None
    """None until it is carried out to its end."""
    problem: str | None = None
    """Why it was not carried out."""
    reports: int = 0
    """So many were voided."""
    upload_bytes: int = 0
    """Bytes added to the sums, negative if subtracted; the next two likewise."""
    download_bytes: int = 0
    billed_bytes: int = 0

    @property
    def raw_bytes(self) -> int:
        """Bytes added in both directions."""
        return self.upload_bytes + self.download_bytes


class Line(msgspec.Struct, frozen=True, gc=False):
    """What one voided report, or one adjustment, adds to the sums."""

    series_id: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reported_at: int
    received_at: int
    voids_seq: int | None
    is_placed: bool
    """Whether its seq tells its period; for an adjustment of a day, the day does."""


class Affected(msgspec.Struct, frozen=True):
    """What a void would subtract from one user."""

    username: str
    reports: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int


class VoidPreview(msgspec.Struct, frozen=True):
    """What a void would subtract now."""

    users: list[Affected]
    """The affected users, those with the most bytes first."""
    voided_before: int
    """How many of the selected reports are voided already."""
    kept_since_millis: int | None
    """When the oldest stored report arrived; None if there is none."""


class CorrectedSum(msgspec.Struct, frozen=True):
    """What corrections added to a user within a range of lines, negative if subtracted."""

    billed_bytes: int
    raw_bytes: int
    period_billed_bytes: int
    """The part of it that belongs to the requested period; the next likewise."""
    period_raw_bytes: int
    corrections: list[Correction]
    """The newest of these corrections, newest first."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a user's correction lines, and the start of a period."""

    username: str
    after_seq: int
    """Lines after this seq."""
    through_seq: int
    """Lines up to and including this seq."""
    period_seq: int | None
    """The period has the reports after this seq; None if that is not known."""
    period_since_millis: int
    """When the period began; for adjustments of a day, and if `period_seq` is not known."""


SHOWN_CORRECTIONS = 10


def correction_of(row: tuple[object, ...]) -> Correction:
    """Read a row with the columns of COLUMNS."""
    number, wanted, asked_at, done_at, problem, reports, up, down, billed = row
    return Correction(
        number=int(str(number)),
        wanted=msgspec.json.decode(str(wanted), type=Wanted),
        asked_at_millis=int(str(asked_at)),
        done_at_millis=None if done_at is None else int(str(done_at)),
        problem=None if problem is None else str(problem),
        reports=int(str(reports)),
        upload_bytes=int(str(up)),
        download_bytes=int(str(down)),
        billed_bytes=int(str(billed)),
    )


COLUMNS = (
    "id, wanted, asked_at, done_at, problem, reports, upload_bytes, download_bytes, billed_bytes"
)


def refusal_of(wanted: Wanted, *, raw_bytes: int, billed_bytes: int, most_bytes: int) -> str | None:
    """Return why a user with so many bytes cannot be adjusted; None if it can."""
    for what, has, more in (
        ("", raw_bytes, wanted.raw_bytes),
        ("billed ", billed_bytes, wanted.billed_bytes),
    ):
        if has + more < 0:
            return f"{wanted.username} has {has} {what}bytes in all, less than {-more}"
        if has + more > most_bytes:
            return f"{wanted.username} would have more {what}bytes than a ledger can hold"
    return None


class Sums(msgspec.Struct, frozen=True):
    """The sums over a table of the ledger, to compare with those over another."""

    raw_bytes: int
    billed_bytes: int
    reports: int

    def plus(self, other: Sums) -> Sums:
        """Return the sum of both."""
        return Sums(
            self.raw_bytes + other.raw_bytes,
            self.billed_bytes + other.billed_bytes,
            self.reports + other.reports,
        )


class Corrected(msgspec.Struct, frozen=True):
    """The sums over all corrections, by each table that has them."""

    lines: int
    added: Sums
    """By the lines; `reports` is the negative number of voided reports."""
    of_users: tuple[int, int]
    """By the users' sums: raw and billed."""
    of_corrections: tuple[int, int, int]
    """By the corrections themselves: raw, billed, and reports voided."""
    most_added: tuple[int, int]
    """By the lines that add bytes: raw and billed."""


def disagreements(one: Sums, other: Sums, *, what: str) -> list[str]:
    """Describe where the sums over users differ from those over something else."""
    problems = []
    if (one.raw_bytes, one.reports) != (other.raw_bytes, other.reports):
        problems.append(
            f"users sum to {one.raw_bytes} bytes in {one.reports} reports, "
            f"{what} to {other.raw_bytes} bytes in {other.reports}"
        )
    if one.billed_bytes != other.billed_bytes:
        problems.append(
            f"users sum to {one.billed_bytes} billed bytes, "
            f"{what} to {other.billed_bytes} billed bytes"
        )
    return problems


def disagreements_of_days(
    users: Sums, corrected: Corrected, *, raw_bytes: int, billed_bytes: int
) -> list[str]:
    """Describe where days sum to more than the users (less is normal: days are dropped)."""
    problems = []
    if raw_bytes > users.raw_bytes + corrected.most_added[0]:
        problems.append(f"days sum to {raw_bytes} bytes, more than the users' {users.raw_bytes}")
    if billed_bytes > users.billed_bytes + corrected.most_added[1]:
        problems.append(
            f"days sum to {billed_bytes} billed bytes, more than the users' {users.billed_bytes}"
        )
    return problems


def disagreements_of_corrections(corrected: Corrected) -> list[str]:
    """Describe where the tables disagree on the sums of corrections."""
    problems = []
    lines = (corrected.added.raw_bytes, corrected.added.billed_bytes)
    if corrected.of_users != lines:
        problems.append(
            f"corrections sum to {lines[0]} bytes, {lines[1]} billed, by their lines, and to "
            f"{corrected.of_users[0]}, {corrected.of_users[1]} billed, by the users'"
        )
    if corrected.of_corrections != (*lines, -corrected.added.reports):
        problems.append(
            f"corrections sum to {lines[0]} bytes of {-corrected.added.reports} reports by their "
            f"lines, and say {corrected.of_corrections[0]} bytes of {corrected.of_corrections[2]}"
        )
    return problems


CORRECTIONS_SUMS = "SELECT upload_bytes, download_bytes, billed_bytes, reports FROM correction"


def of_corrections(rows: Iterable[Sequence[object]]) -> tuple[int, int, int]:
    """Sum the rows of CORRECTIONS_SUMS: raw, billed, and voided reports."""
    raw_bytes = billed_bytes = reports = 0
    for up, down, billed, voided in rows:
        raw_bytes += int(str(up)) + int(str(down))
        billed_bytes += int(str(billed))
        reports += int(str(voided))
    return raw_bytes, billed_bytes, reports


def noted(
    correction: Correction,
    lines: Sequence[Line],
    *,
    position: int | None,
    through: int | None,
    done_at_millis: int | None,
    problem: str | None,
) -> dict[str, object]:
    """Return what is stored of a correction after a step, the values of NOTED.

    Sums over many users may exceed 2^63, so they are texts.
    """
    return {
        "position": position,
        "through": through,
        "done_at": done_at_millis,
        "problem": problem,
        "reports": correction.reports + sum(it.voids_seq is not None for it in lines),
        "upload_bytes": str(correction.upload_bytes + sum(it.upload_bytes for it in lines)),
        "download_bytes": str(correction.download_bytes + sum(it.download_bytes for it in lines)),
        "billed_bytes": str(correction.billed_bytes + sum(it.billed_bytes for it in lines)),
        "number": correction.number,
    }


NOTED = (
    "UPDATE correction SET position_seq = :position, through_seq = :through, done_at = :done_at, "
    "problem = :problem, reports = :reports, upload_bytes = :upload_bytes, "
    "download_bytes = :download_bytes, billed_bytes = :billed_bytes WHERE id = :number"
)
