"""What is a spike."""

from __future__ import annotations

import pytest

from collector.reports.spikes import BusyHour, SpikeRule, by_reporter, describe, spikes_of

RULE = SpikeRule(factor=10, floor_bytes=50)


@pytest.mark.parametrize(
    ("hour_bytes", "past_hour_bytes", "is_spike"),
    [
        (50, 0, False),
        (51, 0, True),
        (51, 5, True),
        (60, 6, False),
        (61, 6, True),
        (1000, 100, False),
        (1001, 100, True),
        (0, 0, False),
        (10**19, 10**17, True),
    ],
)
def test_an_hour_is_a_spike_above_the_floor_and_above_so_many_times_the_past(
    hour_bytes, past_hour_bytes, is_spike
):
    hour = BusyHour("user:a", 1, hour_bytes, past_hour_bytes)
    assert RULE.is_spike(hour) is is_spike
    assert spikes_of([hour], RULE) == ([hour] if is_spike else [])


def test_each_sender_is_named_once_with_the_larger_of_its_days_and_the_largest_first():
    hours = [
        BusyHour("reporter:r", 1, 70, 0), BusyHour("reporter:r", 2, 60, 0), BusyHour("user:a", 2, 90, 1),
        BusyHour("user:b", 2, 80, 0), BusyHour("user:c", 2, 80, 9), BusyHour("import:x", 2, 10**9, 0),
        BusyHour("reporter:calm", 2, 99, 10),
    ]  # fmt: skip
    spikes = spikes_of(hours, RULE)
    assert [(each.sender, each.hour_bytes) for each in spikes] == [
        ("user:a", 90), ("user:b", 80), ("reporter:r", 70),
    ]  # fmt: skip
    assert by_reporter(spikes) == {"": 90, "r": 70}


def test_what_was_found_is_told_in_gib():
    spike = BusyHour("user:a", 1, 103 * 2**30, 2**29)
    assert describe(spike) == "103.0 GiB in an hour, 0.5 GiB at most in the 14 days before"
