"""Reports, voids, adjustments and restarts in any order, on a ledger of each kind.

Whatever comes, the ledger's net sums are those of a list of reports from which some were taken.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.ledger.corrections import Kind, Wanted
from collector.ledger.engines import backend_of
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.examples import examples

MINUTE_MILLIS = 60_000
USERS = ("alice", "bob", "carol")
REPORTERS = ("reporter:r", "reporter:s", "user:alice")
one_report = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(("de-1", "nl-1")),
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.one_of(st.none(), st.integers(0, 10**9)),
)
steps = st.one_of(
    st.tuples(
        st.just("report"),
        st.sampled_from(REPORTERS),
        st.lists(one_report, min_size=1, max_size=5),
        st.booleans(),
    ),
    st.tuples(
        st.just("void"),
        st.sampled_from(REPORTERS),
        st.one_of(st.none(), st.sampled_from(USERS)),
        st.integers(0, 12),
        st.integers(0, 12),
    ),
    st.tuples(st.just("adjust"), st.sampled_from(USERS), st.integers(-(10**9), 10**9)),
    st.tuples(st.just("work"), st.integers(1, 4)),
    st.tuples(st.just("reopen")),
)


class Model:
    """The reports that were stored, and what became of them."""

    def __init__(self) -> None:
        self.minute = 0
        self.reports: list[dict[str, Any]] = []
        self.adjusted: Counter[str] = Counter()

    def net(self) -> dict[str, tuple[int, int]]:
        """Return raw and billed bytes of each user who was ever reported."""
        raw, billed = Counter(self.adjusted), Counter(self.adjusted)
        for each in self.reports:
            if not each["is_voided"]:
                raw[each["user"]] += each["raw"]
                billed[each["user"]] += each["billed"]
        users = {each["user"] for each in self.reports}
        return {user: (raw[user], billed[user]) for user in users}

    def void(self, reporter: str, user: str | None, since: int, until: int) -> None:
        for each in self.reports:
            if each["reporter"] == reporter and user in {None, each["user"]}:
                each["is_voided"] |= since <= each["minute"] < until


def play(url: str, played: list[Any]) -> None:
    place, model = backend_of(url), Model()
    ledger = place.open()
    try:
        for step in played:
            model.minute += 1
            now_millis = NOON_MILLIS + model.minute * MINUTE_MILLIS
            match step:
                case ("report", reporter, reports, defers):
                    ledger.record(
                        [
                            batch(
                                *(
                                    report(user, server=server, up=up, down=down, billed=billed)
                                    for user, server, up, down, billed in reports
                                ),
                                reporter=reporter,
                            )
                        ],
                        received_at_millis=now_millis,
                        defers_sums=defers,
                    )
                    model.reports += [
                        {
                            "user": user,
                            "reporter": reporter,
                            "raw": up + down,
                            "billed": up + down if billed is None else billed,
                            "minute": model.minute,
                            "is_voided": False,
                        }
                        for user, _, up, down, billed in reports
                    ]
                case ("void", reporter, user, since, until):
                    wanted = Wanted(
                        kind=Kind.VOID,
                        reason="",
                        actor="a",
                        username=user,
                        scope=reporter,
                        since_millis=NOON_MILLIS + since * MINUTE_MILLIS,
                        until_millis=NOON_MILLIS + until * MINUTE_MILLIS,
                    )
                    place.ask_correction(wanted, asked_at_millis=now_millis)
                    while ledger.correct(now_millis=now_millis, limit=2):
                        pass
                    model.void(reporter, user, since, until)
                case ("adjust", user, amount):
                    wanted = Wanted(
                        kind=Kind.ADJUST,
                        reason="",
                        actor="a",
                        username=user,
                        raw_bytes=amount,
                        billed_bytes=amount,
                    )
                    place.ask_correction(wanted, asked_at_millis=now_millis)
                    while ledger.correct(now_millis=now_millis):
                        pass
                    has = model.net().get(user)
                    if has is not None and min(has) + amount >= 0:
                        model.adjusted[user] += amount
                case ("work", limit):
                    ledger.correct(now_millis=now_millis, limit=limit)
                case ("reopen",):
                    ledger.close()
                    ledger = place.open()
        ledger.fold()
        check(place, model)
    finally:
        ledger.close()


def check(place: Any, model: Model) -> None:
    with closing(place.reader()) as reader:
        page = reader.changes(after=0, limit=100)
        net = {
            it.username: (
                it.upload_bytes
                + it.download_bytes
                + it.corrected_upload_bytes
                + it.corrected_download_bytes,
                it.billed_bytes + it.corrected_billed_bytes,
            )
            for it in page.changes
        }
        assert net == model.net()
        audit = reader.audit()
        assert audit.problems == []
        total = sum(raw for raw, _ in net.values())
        assert audit.user_bytes == audit.series_bytes == audit.day_bytes == total
        assert audit.reports == sum(not each["is_voided"] for each in model.reports)
        for user, (raw, billed) in net.items():
            servers = reader.servers_of(user, since_day=None)
            assert sum(it.upload_bytes + it.download_bytes for it in servers) == raw
            assert sum(it.billed_bytes for it in servers) == billed


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_ledger_sums_what_was_not_taken_back(kind, request):
    server = request.getfixturevalue("postgres") if kind == "postgres" else None

    @settings(
        max_examples=examples(6 if server else 30),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(steps, max_size=14))
    def plays(played: list[Any]) -> None:
        if server:
            play(server.url(server.new_database()), played)
            return
        with tempfile.TemporaryDirectory() as folder:
            play(f"sqlite:///{Path(folder) / 'ledger.sqlite3'}", played)

    plays()
