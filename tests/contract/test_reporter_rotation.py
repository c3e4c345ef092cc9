"""A reporter's key is replaced under its name: what every ledger promises of that."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from collector.errors import LedgerError, NotStoredError
from collector.ledger.engines import backend_of
from collector.reports.reporters import KeyRing, hash_key
from tests.support.collector.ledgers import NOON_MILLIS, batch, beside, report

HOUR_MILLIS = 3_600_000


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    else:
        url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    place = backend_of(url)
    place.prepare()
    return place


def holders(place, *keys, now_millis):
    with closing(place.reader()) as reader:
        ring = KeyRing(reader.reporters(), now_millis=now_millis)
    return [getattr(ring.by_key(each), "name", None) for each in keys]


def rotate(place, name="de-1", *, now_millis=0, grace=HOUR_MILLIS):
    return place.rotate_reporter(name, now_millis=now_millis, grace_millis=grace)


def test_both_keys_open_until_the_grace_is_over_and_then_the_new_one_alone(place):
    old = place.add_reporter("de-1", now_millis=0, counts_toward_quota=False)
    new = rotate(place)
    assert holders(place, old, new, now_millis=HOUR_MILLIS - 1) == ["de-1", "de-1"]
    assert holders(place, old, new, now_millis=HOUR_MILLIS) == [None, "de-1"]
    with closing(place.reader()) as reader:
        (reporter,) = reader.reporters()
    assert reporter.key_hashes(now_millis=1) == (hash_key(new), hash_key(old))
    assert reporter.counts_toward_quota is False


def test_without_a_grace_the_old_key_ends_at_once(place):
    old = place.add_reporter("de-1", now_millis=0)
    new = rotate(place, grace=0)
    assert holders(place, old, new, now_millis=1) == [None, "de-1"]


def test_a_key_that_was_never_seen_may_be_replaced_again_within_the_grace(place):
    """A crash between the commit and the screen loses a key, and no sender."""
    first = place.add_reporter("de-1", now_millis=0)
    lost = rotate(place)
    new = rotate(place, now_millis=10)
    assert holders(place, first, lost, new, now_millis=20) == ["de-1"] * 3
    at_once = rotate(place, now_millis=30, grace=0)
    assert holders(place, first, lost, new, at_once, now_millis=31) == [None] * 3 + ["de-1"]


def test_a_revoked_reporter_is_refused_with_its_former_keys_too_and_for_good(place):
    old = place.add_reporter("de-1", now_millis=0)
    place.add_reporter("other", now_millis=0)
    new, others = rotate(place), rotate(place, "other")
    place.revoke_reporter("de-1", now_millis=1)
    assert holders(place, old, new, others, now_millis=2) == [None, None, "other"]
    added = place.add_reporter("de-1", now_millis=3)
    assert holders(place, old, new, added, now_millis=4) == [None, None, "de-1"]


def test_who_is_not_there_or_revoked_cannot_be_rotated(place):
    for _ in range(2):
        with pytest.raises(LedgerError, match="no reporter 'de-1' to rotate"):
            rotate(place)
        if not holders(place, now_millis=0):
            place.add_reporter("de-1", now_millis=0)
            place.revoke_reporter("de-1", now_millis=0)


def test_a_report_that_is_sent_again_with_the_new_key_is_counted_once(place):
    place.add_reporter("de-1", now_millis=0)
    scopes = []
    for _ in range(2):
        with closing(place.reader()) as reader:
            scopes.append(f"reporter:{reader.reporters()[0].name}")
        rotate(place)
    with closing(place.open()) as ledger:
        for scope in scopes:
            (outcome,) = ledger.record(
                [batch(report(key="1"), reporter=scope)], received_at_millis=NOON_MILLIS
            )
    assert (outcome.accepted, outcome.duplicates) == (0, 1)


def test_a_rotation_that_is_cut_off_leaves_the_old_key_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite3"
    place = backend_of(f"sqlite:///{path}")
    place.prepare()
    old = place.add_reporter("de-1", now_millis=0)
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TRIGGER dies BEFORE UPDATE ON reporter "
            "BEGIN SELECT RAISE(FAIL, 'the disk is gone'); END"
        )
    with pytest.raises(NotStoredError, match="the disk is gone"):
        beside(path).rotate_reporter("de-1", now_millis=0, grace_millis=HOUR_MILLIS)
    with closing(place.reader()) as reader:
        (reporter,) = reader.reporters()
    assert reporter.key_hashes(now_millis=0) == (hash_key(old),)
