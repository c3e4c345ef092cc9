"""Which reports fit their users' totals."""

from __future__ import annotations

import pytest

from collector.ledger.capacity import NEARLY_FULL_BYTES, Amounts, Capacity
from collector.reports.report import MAX_AMOUNT_BYTES
from tests.support.collector.ledgers import batch, report

NOTHING = Amounts(0, 0)


@pytest.mark.parametrize(
    ("nearly_full", "accepted_bytes", "reports", "is_ample"),
    [
        ({}, 0, [report(up=2**60, down=0)], True),
        ({}, 0, [report(up=2**60, down=1, billed=2**61)], True),
        ({}, 0, [report(up=2**60, down=1, billed=2**61 + 1)], False),
        ({}, 2**60, [report(up=2**60, down=0)], True),
        ({}, 2**60, [report(up=2**60, down=1)], False),
        ({"x": Amounts(NEARLY_FULL_BYTES + 1, 0)}, 0, [report(up=1, down=0)], False),
    ],
)
def test_all_reports_fit_while_no_user_is_near_its_end(
    nearly_full, accepted_bytes, reports, is_ample
):
    capacity = Capacity(nearly_full)
    capacity.note(raw_bytes=accepted_bytes, billed_bytes=0)
    assert capacity.is_ample([batch(each) for each in reports]) is is_ample


@pytest.mark.parametrize(
    ("total", "grows_by", "fits"),
    [
        (NOTHING, report(up=MAX_AMOUNT_BYTES, down=0), True),
        (NOTHING, report(up=MAX_AMOUNT_BYTES, down=1), False),
        (Amounts(MAX_AMOUNT_BYTES, 5), report(up=1, down=0, billed=0), False),
        (Amounts(5, MAX_AMOUNT_BYTES), report(up=1, down=0), False),
        (Amounts(5, MAX_AMOUNT_BYTES), report(up=1, down=0, billed=0), True),
    ],
)
def test_a_report_fits_where_neither_total_goes_beyond_the_largest(total, grows_by, fits):
    room = Capacity({}, spare_bytes=0).room([batch(grows_by)], lambda _: total)
    assert room.take(grows_by) is fits


def test_what_is_taken_counts_for_the_next_and_is_remembered_once_it_is_stored():
    half = report(up=NEARLY_FULL_BYTES, down=0)
    capacity = Capacity({}, spare_bytes=0)
    room = capacity.room([batch(half, half, half)], lambda _: NOTHING)
    assert [room.take(half) for _ in range(3)] == [True, True, False]
    assert capacity.nearly_full == {}
    capacity.note(raw_bytes=2 * NEARLY_FULL_BYTES, billed_bytes=0, room=room)
    assert capacity.nearly_full == {"alice": Amounts(MAX_AMOUNT_BYTES, MAX_AMOUNT_BYTES)}


def test_users_who_are_not_nearly_full_are_not_looked_up_while_there_is_room_for_all():
    looked_up = []
    capacity = Capacity({"full": Amounts(MAX_AMOUNT_BYTES, 0)})

    def total_of(username):
        looked_up.append(username)
        return NOTHING

    room = capacity.room([batch(report("full"), report("bob"))], total_of)
    assert [room.take(report(name)) for name in ("full", "bob")] == [False, True]
    assert looked_up == []
