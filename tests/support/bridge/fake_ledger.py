"""A stand-in for the collector's change feed, held to the real one by a contract test."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

ADMIN_KEY = "an-admin-key-for-tests"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A report that was counted."""

    seq: int
    username: str
    billed_bytes: int
    raw_bytes: int
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one voided report, or an adjustment, adds to a user."""

    seq: int
    number: int
    username: str
    billed_bytes: int
    raw_bytes: int
    position: int | None
    received_at: datetime


class FakeLedger:
    """Cumulative totals per user and the feed over them; no files, no waiting."""

    def __init__(self, ledger_id: str = "ledger-1") -> None:
        self.ledger_id = ledger_id
        self.seq = 0
        self.totals: dict[str, tuple[int, int, int]] = {}
        """By user: billed bytes, raw bytes, and its place in the feed."""
        self.ratio_millis = 1000
        self.knows_ratios = True
        """A collector from before ratios says nothing of billed bytes."""
        self.is_down = False
        self.positions: dict[str, dict[str, object]] = {}
        self.runs: list[tuple[int, str]] = []
        self.reports: list[Reported] = []
        self.lines: list[Line] = []
        self.corrections: list[dict[str, object]] = []
        self.now: Callable[[], datetime] = lambda: datetime(2024, 10, 4, 12, tzinfo=UTC)
        self.asked: list[str] = []
        """The paths that were asked for."""
        self._is_run_noted = False

    def restart(self) -> None:
        """End the collector's process and start another on the same ledger."""
        self._is_run_noted = False

    def copied(self) -> dict[str, object]:
        """Return a copy of the ledger's file as it is now."""
        return copy.deepcopy(
            {
                name: getattr(self, name)
                for name in (
                    *("seq", "totals", "positions", "runs"),
                    *("reports", "lines", "corrections"),
                )
            }
        )

    def restore(self, copied: dict[str, object]) -> None:
        """Put a copy in the ledger's place, and start the collector on it."""
        vars(self).update(copy.deepcopy(copied))
        self.restart()

    def _next(self) -> int:
        if not self._is_run_noted:
            self.runs.append((self.seq, secrets.token_hex(8)))
            self._is_run_noted = True
        self.seq += 1
        return self.seq

    def report(self, username: str, amount_bytes: int) -> int:
        """Count a report; the user's place in the feed moves to its end. Returns its number."""
        seq = self._next()
        more_bytes = amount_bytes * self.ratio_millis // 1000
        billed_bytes, raw_bytes, _ = self.totals.pop(username, (0, 0, 0))
        self.totals[username] = (billed_bytes + more_bytes, raw_bytes + amount_bytes, seq)
        self.reports.append(
            Reported(
                seq=seq,
                username=username,
                billed_bytes=more_bytes,
                raw_bytes=amount_bytes,
                received_at=self.now(),
            )
        )
        return seq

    def void(self, *seqs: int, reason: str = "stolen key") -> None:
        """Take reports back that were not taken back before."""
        number = self._correction("void", reason, "reporter:r")
        voided = {line.position for line in self.lines}
        for each in self.reports:
            if each.seq in seqs and each.seq not in voided:
                self._add_line(
                    number,
                    each.username,
                    -each.billed_bytes,
                    -each.raw_bytes,
                    position=each.seq,
                    received_at=each.received_at,
                )

    def adjust(
        self,
        username: str,
        amount_bytes: int,
        *,
        day: datetime | None = None,
        reason: str = "spike",
    ) -> None:
        """Add bytes to a user, or take them off, as of now or of a day."""
        number = self._correction("adjust", reason, None)
        position = None if day else self.seq + 1
        self._add_line(
            *(number, username, amount_bytes, amount_bytes),
            position=position,
            received_at=day or self.now(),
        )

    def _correction(self, kind: str, reason: str, scope: str | None) -> int:
        number = len(self.corrections) + 1
        self.corrections.append(
            {"number": number, "kind": kind, "reason": reason, "actor": "root", "scope": scope}
        )
        return number

    def _add_line(
        self,
        number: int,
        username: str,
        billed_bytes: int,
        raw_bytes: int,
        *,
        position: int | None,
        received_at: datetime,
    ) -> None:
        seq = self._next()
        total = self.totals.pop(username)
        self.totals[username] = (total[0], total[1], seq)
        self.lines.append(
            Line(
                seq=seq,
                number=number,
                username=username,
                billed_bytes=billed_bytes,
                raw_bytes=raw_bytes,
                position=position,
                received_at=received_at,
            )
        )

    def net_bytes(self, username: str) -> int:
        """Return a user's billed bytes since for ever, less what was taken back."""
        corrected = sum(line.billed_bytes for line in self.lines if line.username == username)
        return self.total_bytes(username) + corrected

    def _answer_sum(self, request: httpx.Request) -> httpx.Response:
        """Answer for a name what corrections added within a stretch, and what of a period."""
        asked = request.url.params
        since = datetime.fromisoformat(asked["period_since"])
        period_seq = asked.get("period_seq")
        lines = [
            line
            for line in self.lines
            if line.username == asked["username"]
            and int(asked["after_seq"]) < line.seq <= int(asked["through_seq"])
        ]
        of_period = [
            line
            for line in lines
            if (
                line.received_at >= since
                if line.position is None or period_seq is None
                else line.position > int(period_seq)
            )
        ]
        numbers = {line.number for line in lines}
        return httpx.Response(
            200,
            json={
                "billed_bytes": sum(line.billed_bytes for line in lines),
                "raw_bytes": sum(line.raw_bytes for line in lines),
                "period_billed_bytes": sum(line.billed_bytes for line in of_period),
                "period_raw_bytes": sum(line.raw_bytes for line in of_period),
                "corrections": [
                    each for each in reversed(self.corrections) if each["number"] in numbers
                ],
            },
        )

    def _corrected(self, username: str) -> dict[str, int]:
        lines = [line for line in self.lines if line.username == username]
        return {
            "corrected_upload_bytes": 0,
            "corrected_download_bytes": sum(line.raw_bytes for line in lines),
            "corrected_billed_bytes": sum(line.billed_bytes for line in lines),
            "corrected_seq": max((line.seq for line in lines), default=0),
        }

    def total_bytes(self, username: str) -> int:
        """Return a user's total of billed bytes since for ever."""
        return self.totals.get(username, (0, 0, 0))[0]

    def raw_bytes(self, username: str) -> int:
        """Return a user's total of raw bytes since for ever."""
        return self.totals.get(username, (0, 0, 0))[1]

    def transport(self) -> httpx.MockTransport:
        """Return what answers a bridge in place of the network."""
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.is_down:
            raise httpx.ConnectError("the ledger is down", request=request)
        if request.headers.get("authorization") != f"Bearer {ADMIN_KEY}":
            return httpx.Response(401, json={"detail": "wrong key"})
        if request.url.path == "/v1/readers":
            found = [{"reader": name, **told} for name, told in self.positions.items()]
            return httpx.Response(200, json={"readers": found})
        if request.url.path.startswith("/v1/readers/"):
            return self._answer_reader(request)
        if request.url.path == "/v1/corrections/sum":
            return self._answer_sum(request)
        if request.url.path != "/v1/usage/changes":
            return httpx.Response(404, json={"detail": "not here"})
        after = int(request.url.params["after"])
        limit = int(request.url.params["limit"])
        changed = [(name, *entry) for name, entry in self.totals.items() if entry[2] > after]
        page = sorted(changed, key=lambda entry: entry[3])[:limit]
        return httpx.Response(
            200,
            json={
                "ledger_id": self.ledger_id,
                "head": self.seq,
                "next": page[-1][3] if page else after,
                "changes": [
                    {
                        "username": name,
                        "upload_bytes": 0,
                        "download_bytes": raw_bytes,
                        **({"billed_bytes": billed_bytes} if self.knows_ratios else {}),
                        "reports": 1,
                        "last_used_at": None,
                        "change_seq": seq,
                        **self._corrected(name),
                    }
                    for name, billed_bytes, raw_bytes, seq in page
                ],
                "runs": [
                    {"after_seq": seq, "token": token} for seq, token in self._runs_since(after)
                ],
            },
        )

    def _runs_since(self, after: int) -> list[tuple[int, str]]:
        first = max((seq for seq, _ in self.runs if seq < after), default=0)
        return [each for each in self.runs if each[0] >= first]

    def _answer_reader(self, request: httpx.Request) -> httpx.Response:
        reader = request.url.path.rpartition("/")[2]
        known = self.positions.get(reader)
        if request.method == "PUT":
            told = json.loads(request.content)
            is_news = known is None or told["position"] > known["position"]
            if is_news or (known and {**known, "panel": told["panel"]} == told):
                known = self.positions[reader] = told
        if known is None:
            return httpx.Response(
                404, json={"detail": "no position has been reported for this reader"}
            )
        return httpx.Response(200, json=known)
