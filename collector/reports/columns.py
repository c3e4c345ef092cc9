"""Accepts the reports of a request by column: of many, that takes half the time. Pure.

`accept` checks each report and says what is wrong with it. Nearly always nothing is; then the
checks of all reports are one call for each field, and no object is made of a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import add
from typing import Any, overload

from msgspec.structs import astuple

from collector.reports.billing import Tariff
from collector.reports.identity import SHORTEST_TOKEN, is_plainly_a_name
from collector.reports.report import (
    MAX_AHEAD_MILLIS,
    MAX_USERNAME_LENGTH,
    Limits,
    Report,
    WireReport,
    report_keys,
)

FEWEST_BY_COLUMN = 4
"""Fewer reports are checked faster one by one."""
_FIELDS = len(Report.__struct_fields__)


class Columns(Sequence[Report]):
    """Accepted reports, by the fields of `Report`; columns are equally long."""

    __slots__ = ("fields", "raw_bytes")

    def __init__(self, fields: Sequence[Sequence[Any]], raw_bytes: Sequence[int]) -> None:
        self.fields = fields
        self.raw_bytes = raw_bytes
        """What each report has in both directions."""

    def __len__(self) -> int:
        return len(self.raw_bytes)

    @overload
    def __getitem__(self, place: int) -> Report: ...
    @overload
    def __getitem__(self, place: slice) -> Columns: ...
    def __getitem__(self, place: int | slice) -> Report | Columns:
        found: list[Any] = [column[place] for column in self.fields]
        if isinstance(place, slice):
            return Columns(found, self.raw_bytes[place])
        return Report(*found)

    def __iter__(self) -> Iterator[Report]:
        return map(Report, *self.fields)

    @property
    def places(self) -> Iterable[tuple[str, int, str]]:
        """The servers with port and protocol that the reports name."""
        return set(zip(*self.fields[1:4], strict=True))


def amount_of(reports: Sequence[Report]) -> int:
    """Return the bytes of reports in both directions."""
    if isinstance(reports, Columns):
        return sum(reports.raw_bytes)
    return sum([each.upload_bytes + each.download_bytes for each in reports])


def columns_of(parts: Sequence[Sequence[Report]]) -> Columns:
    """Return the reports of several requests together, in their order."""
    if not any(isinstance(part, Columns) for part in parts):
        return _transposed(chain.from_iterable(parts))
    each = [part if isinstance(part, Columns) else _transposed(part) for part in parts]
    if len(each) == 1:
        return each[0]
    fields = [
        list(chain.from_iterable(column))
        for column in zip(*(part.fields for part in each), strict=True)
    ]
    return Columns(fields, list(chain.from_iterable(part.raw_bytes for part in each)))


def _transposed(reports: Iterable[Report]) -> Columns:
    fields = list(zip(*map(astuple, reports), strict=True)) or [()] * _FIELDS
    return Columns(fields, list(map(add, fields[4], fields[5])))


def accept_plain(
    wires: Sequence[WireReport],
    *,
    scope: str,
    now_millis: int,
    limits: Limits,
    tariff: Tariff | None = None,
) -> Columns | None:
    """Accept well-formed reports, each as `accept` would with its own id or none.

    Return None where `accept` has to look at each of them: one may be refused or changed, have
    zero bytes, or name its user by a token.
    """
    fields = list(zip(*map(astuple, wires), strict=True))
    if not fields:
        return None
    names, servers, ports, protocols, uploads, downloads, ids, times, connections = fields
    raw_bytes = list(map(add, uploads, downloads))
    if (
        not all(raw_bytes)
        or max(uploads) > limits.ceiling_bytes
        or max(downloads) > limits.ceiling_bytes
        or max(raw_bytes) > limits.request_bytes
        or not _are_plain(names, {*servers, *protocols}, filter(None, ids))
    ):
        return None
    reported_at = [now_millis] * len(times)
    if times.count(None) < len(times):
        reported_at = [now_millis if at is None else int(at.timestamp() * 1000) for at in times]
        is_recent = min(reported_at) >= now_millis - limits.dedup_window_millis
        if not is_recent or max(reported_at) >= now_millis + MAX_AHEAD_MILLIS:
            return None
    billed_bytes: list[int | None] = [None] * len(times)
    if tariff is not None:
        billed_bytes = list(map(tariff.billed_bytes, servers, raw_bytes))
    accepted = (
        *(names, servers, ports, protocols, uploads, downloads, connections),
        *(reported_at, report_keys(scope, ids), billed_bytes),
    )
    return Columns(accepted, raw_bytes)


def _are_plain(names: Sequence[str], places: Iterable[str], ids: Iterable[str]) -> bool:
    """Tell whether all names are certainly valid and as they are stored, as nearly all are."""
    usernames = "".join(names)
    all_names = "".join((usernames, *places, *ids))
    return (
        usernames.isascii()  # and so in NFC
        and " " not in usernames
        and ":" not in usernames  # and so no URLs
        and "\\" not in all_names
        and all_names.isprintable()
        and (max(map(len, names)) < SHORTEST_TOKEN or all(map(_is_plain_name, names)))
    )


def _is_plain_name(name: str) -> bool:
    return len(name) <= MAX_USERNAME_LENGTH and is_plainly_a_name(name)
