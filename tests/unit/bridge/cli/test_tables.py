"""How amounts, names and tables look in a terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from marzban_bridge.quota.account import Event
from marzban_bridge.quota.balance import Balance, balance
from marzban_bridge.quota.usage import UnknownName
from marzban_bridge.sizes import human_bytes, human_value
from marzban_bridge.store.events import RecordedEvent
from marzban_bridge.tables import (
    PlannedRow,
    events_table,
    human_share,
    panel_rebase_table,
    plan_table,
    unknown_names_table,
    users_table,
)
from tests.support.bridge.bridge_builders import account, gib, panel_user

AT = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
LONG_NAME = "a_name_of_thirty_two_characters_"
HOSTILE_NAMES = ["[/]", "[bold red]x[/]", "a\x1b[31mb", "\U0001f4a9" * 3, "a\u202eb"]


def drawn(table) -> str:
    console = Console(width=80, file=None, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("amount_bytes", "text"),
    [
        (None, "unlimited"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (100 * 1024**2, "100 MiB"),
        (gib(7), "7.00 GiB"),
        (-gib(7), "-7.00 GiB"),
        (5 * 1024**6, "5120 PiB"),
    ],
)
def test_amounts_have_three_digits_and_a_unit(amount_bytes, text):
    assert human_bytes(amount_bytes) == text


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("quota_changed", str(gib(10)), "10.0 GiB"),
        ("quota_changed", "unlimited", "unlimited"),
        ("corrected", str(-gib(1)), "-1.00 GiB"),
        ("published", f"active, data limit {gib(3)}", "active, data limit 3.00 GiB"),
        ("limited", "disabled, data limit unlimited", "disabled, data limit unlimited"),
        (
            "rebased",
            f"quota {gib(10)}, baseline {gib(1)}, {gib(2)} used in the panel, active",
            "quota 10.0 GiB, baseline 1.00 GiB, 2.00 GiB used in the panel, active",
        ),
        ("admin_changed", "10737418240", "10737418240"),
        ("reset", None, None),
    ],
)
def test_the_values_of_an_event_are_shown_in_units(kind, value, text):
    assert human_value(value, kind=kind) == text


@pytest.mark.parametrize(
    ("quota_bytes", "text"), [(None, "-"), (0, "-"), (gib(10), "30 %"), (gib(2), "150 %")]
)
def test_a_share_is_of_a_quota(quota_bytes, text):
    found = Balance(quota_bytes=quota_bytes, panel_bytes=gib(1), external_bytes=gib(2))
    assert human_share(found) == text


def tables_about(name: str):
    held = account(panel_user(username=name), is_held=True)
    event = Event(kind="reset", text=name, actor=name, before=name, after=name)
    return {
        "users": users_table([(held, balance(held, total_bytes=gib(3)))], title="Users"),
        "users with ratios": users_table(
            [(held, replace(balance(held, total_bytes=gib(3)), external_raw_bytes=gib(1)))]
        ),
        "plan": plan_table([PlannedRow(name, "limit", name, gib(3), "disabled")]),
        "events": events_table([RecordedEvent(seq=1, at=AT, username=name, event=event)]),
        "unknown names": unknown_names_table(
            [UnknownName(username=name, first_seen_at=AT, total_bytes=gib(1), raw_bytes=gib(1))]
        ),
    }


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, LONG_NAME, LONG_NAME * 8])
@pytest.mark.parametrize("which", ["users", "users with ratios", "plan", "events", "unknown names"])
def test_whatever_a_name_is_a_table_fits_and_steers_no_terminal(which, name):
    text = drawn(tables_about(name)[which])
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "…" not in text


@pytest.mark.parametrize("name", ["[/]", "[bold]x[/bold]"])
@pytest.mark.parametrize("which", ["plan", "events", "unknown names"])
def test_markup_in_a_name_is_shown_and_not_obeyed(which, name):
    assert name in drawn(tables_about(name)[which]).replace("\n", "")


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "active"),
        ({"is_disabled_by_us": True}, "disabled by us"),
        ({"is_disabled_by_us": True, "is_held": True}, "held: rebase"),
    ],
)
def test_a_status_says_what_the_bridge_has_to_do_with_it(fields, shown):
    one = account(**fields)
    assert shown in drawn(users_table([(one, balance(one, total_bytes=0))]))


def test_raw_bytes_have_a_column_where_they_count_for_something_else():
    one = account()
    as_it_is = balance(one, total_bytes=gib(3))
    same = replace(as_it_is, external_raw_bytes=gib(3))
    doubled = replace(as_it_is, external_raw_bytes=gib(1.5))
    assert "raw" not in drawn(users_table([(one, as_it_is), (one, same)]))
    text = drawn(users_table(iter([(one, same), (one, doubled)])))
    assert "raw" in text
    assert "1.50 GiB" in text
    assert text.count("3.00 GiB") == 3


@dataclass
class Accepted:
    """A row of what accepting a panel would do."""

    username: str = LONG_NAME
    what: str = "kept, and published anew"
    quota_bytes: int | None = gib(1023)
    external_bytes: int = gib(512.5)
    marzban_bytes_before: int = gib(100.25)
    marzban_bytes: int | None = gib(99.75)
    published_limit_bytes: int | None = gib(510.5)
    status: str | None = "disabled"


def test_what_accepting_a_panel_does_says_of_whom_on_a_narrow_terminal():
    """It showed figures of users without their names where a table may be 80 columns wide."""
    text = drawn(panel_rebase_table([Accepted(), Accepted(username="bob", quota_bytes=None)]))
    assert all(len(line) <= 80 for line in text.splitlines())
    names = "".join(line[:9].strip() for line in text.splitlines())
    assert LONG_NAME in names
    assert "bob" in text
    flowed = "".join(text.split())
    for shown in ("1023", "512", "100", "99.8", "510", "unlimi", "disabl", "kept,"):
        assert shown in flowed, text
