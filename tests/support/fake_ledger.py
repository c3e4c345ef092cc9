"""A stand-in for the collector's change feed, held to the real one by a contract test."""

from __future__ import annotations

import json

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

    def report(self, username: str, amount_bytes: int) -> None:
        """Count a report; the user's place in the feed moves to its end."""
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
            },
        )

    def _answer_reader(self, request: httpx.Request) -> httpx.Response:
        reader = request.url.path.rpartition("/")[2]
        known = self.standings.get(reader)
        if request.method == "PUT":
            told = json.loads(request.content)
            if known is None or told["position"] > known["position"]:
                known = self.standings[reader] = told
        if known is None:
            return httpx.Response(404, json={"detail": "this reader has never left word"})
        return httpx.Response(200, json=known)
