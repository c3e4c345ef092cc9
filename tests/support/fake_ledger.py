"""A stand-in for the collector's change feed, held to the real one by a contract test."""

from __future__ import annotations

import copy
import json
import secrets

import httpx

ADMIN_KEY = "an-admin-key-for-tests"


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
        self.standings: dict[str, dict[str, object]] = {}
        self.runs: list[tuple[int, str]] = []
        self._is_run_noted = False

    def restart(self) -> None:
        """End the collector's process and start another on the same ledger."""
        self._is_run_noted = False

    def copied(self) -> dict[str, object]:
        """Return a copy of the ledger's file as it is now."""
        return copy.deepcopy(
            {name: getattr(self, name) for name in ("seq", "totals", "standings", "runs")}
        )

    def restore(self, copied: dict[str, object]) -> None:
        """Put a copy in the ledger's place, and start the collector on it."""
        vars(self).update(copy.deepcopy(copied))
        self.restart()

    def report(self, username: str, amount_bytes: int) -> None:
        """Count a report; the user's place in the feed moves to its end."""
        if not self._is_run_noted:
            self.runs.append((self.seq, secrets.token_hex(8)))
            self._is_run_noted = True
        self.seq += 1
        billed_bytes, raw_bytes, _ = self.totals.pop(username, (0, 0, 0))
        billed_bytes += amount_bytes * self.ratio_millis // 1000
        self.totals[username] = (billed_bytes, raw_bytes + amount_bytes, self.seq)

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
        if self.is_down:
            raise httpx.ConnectError("the ledger is down", request=request)
        if request.headers.get("authorization") != f"Bearer {ADMIN_KEY}":
            return httpx.Response(401, json={"detail": "wrong key"})
        if request.url.path == "/v1/readers":
            found = [{"reader": name, **told} for name, told in self.standings.items()]
            return httpx.Response(200, json={"readers": found})
        if request.url.path.startswith("/v1/readers/"):
            return self._answer_reader(request)
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
        known = self.standings.get(reader)
        if request.method == "PUT":
            told = json.loads(request.content)
            is_news = known is None or told["position"] > known["position"]
            if is_news or (known and {**known, "panel": told["panel"]} == told):
                known = self.standings[reader] = told
        if known is None:
            return httpx.Response(404, json={"detail": "this reader has never left word"})
        return httpx.Response(200, json=known)
