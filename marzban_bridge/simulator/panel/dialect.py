"""What differs between the panels the simulator can be, as values beside each other.

Marzban 0.8.4, PasarGuard 5.2.1 and 3.1.0, observed on running panels; the odd values are their own.
What differs in shape rather than in a value (JSON and paths) is in modules of the kind's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from marzban_bridge.panels.users import Status

Kind = Literal["marzban", "pasarguard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDialect:
    """The rules of one kind of panel."""

    kind: Kind
    title: str
    version: str

    names: re.Pattern[str]
    """What a user may be called."""
    name_rule: str
    """The same in words."""

    admins_have_roles: bool
    """Whether admins have roles and API keys; PasarGuard's alone, in whose answers it shows."""
    first_admin_is_in_database: bool
    """Whether the admin from the environment has a row, so that users it creates are owned."""
    reset_all_is_of_everybody: bool
    """Whether "Reset all" means everybody, or the users of the database admin who presses it."""
    bad_page_is_refused_with: int
    """The status for a negative limit or offset, of all databases but SQLite."""

    empty_sort_is_refused: bool
    """Whether a list that is to be sorted by nothing is refused."""

    expire_is_applied_first: bool
    """Whether a PUT's expiry is checked before its data limit, or after it."""
    hold_clears_expiry: bool
    """Whether putting a user on hold deletes its expiry."""
    enabling_works_state_out: bool
    """Whether `active` for a disabled user means what limit, expiry and hold make of it."""
    resuming_asks_whether_online: bool
    """Whether resuming an admin's users puts only those on hold who were never online."""
    timeout_is_for_never_online: bool
    """Whether a hold's timeout counts only for a user that was never online."""
    endless_hold_ends_without_expiry: bool
    """Whether a hold without a duration ends in no expiry, or in one at that moment."""
    user_needs_proxies: bool
    """Whether the panel breaks on showing a user without proxies."""

    woken_by_reset: frozenset[Status]
    """From which states a reset makes a user active."""
    woken_by_reset_all: frozenset[Status]
    """The same of "Reset all"."""
    reset_rearms_reminder: bool
    """Whether the reminder of the used share can come again after a reset."""
    revoking_is_an_edit: bool
    """Whether revoking writes state, limit and expiry again, and the time of the edit."""
    periodic_reset_needs_creation: bool
    """Whether the periodic reset breaks on a user without `created_at`, or leaves it out."""
    nodes_follow_every_change: bool
    """Whether all that makes a user active puts it back on the nodes, too."""

    remaining_flag_is_inverted: bool
    """Whether `add_remaining_traffic` adds what remained when it is false."""
    unlimited_has_remaining: bool
    """Whether what an unlimited user used counts as a negative rest, or the panel breaks."""
    plan_expiry_runs_from_firing: bool
    """Whether a plan's `expire` is seconds from its firing, or a moment."""
    plan_may_want_both: bool
    """Whether a plan can be told to wait for limit and expiry (`fire_on_either`)."""

    plan_event: str
    """The webhook event of a next plan that the review fired."""
    plan_by_hand_is_announced: bool
    """Whether a next plan that was fired by request has an event."""
    hold_event: str | None
    """The webhook event of a user put on hold."""
    state_events_name_admin: bool
    """Whether `user_enabled` and `user_disabled` say who did it."""
    reset_announces_state: bool
    """Whether a reset that makes a user active also sends the event of that."""
    periodic_reset_is_announced: bool
    """Whether the periodic reset sends events."""
    deletion_shows_user: bool
    """Whether `user_deleted` carries the user."""
    deletion_shows_first: bool
    """Whether the panel shows a user before it deletes it, so that an unreadable one stays."""
    sqlite_keeps_history: bool
    """Whether on SQLite the reset log and next plan of a deleted user become those of the next one
    of its number, which is given out again."""
    deletion_needs_owner: bool
    """Whether deleting a user without an owner answers 500 and has no event."""
    reminder_hides_subscription: bool
    """Whether reminders leave the subscription URL out."""
    days_left_is_exact: bool
    """Whether the reminder of the expiry is sent on its day alone, or from then on."""

    event_time_is_real: bool
    """Whether `enqueued_at` is the event's time, or the start of the panel's process."""
    retry_is_told: bool
    """Whether an event that is sent again carries new `tries` and `send_at`."""
    deliveries: int
    """How often an event is sent at most."""
    batch_size: int | None
    """How many events are sent in one request at most."""
    delivered: frozenset[int] | None
    """The receiver's statuses that count as delivered; None is all below 400."""

    shown_gib_decimals: int
    """To how many decimals the edit dialog shows, and sends back, a data limit in GiB."""
    tiny_gib_decimals: int | None
    """The same for a limit that would be shown as 0; None is as any other."""
    dialog_keeps_next_plan: bool
    dialog_always_sends_state: bool
    """Whether saving the dialog sends a state that the admin did not touch."""


MARZBAN = SimulatedDialect(
    kind="marzban",
    title="Marzban",
    version="0.8.4",
    names=re.compile(r"(?=\w{3,32}\b)[A-Za-z0-9_@.-]+", re.ASCII),
    name_rule="3 to 32 letters, digits and underscores to begin with",
    admins_have_roles=False,
    first_admin_is_in_database=False,
    reset_all_is_of_everybody=False,
    bad_page_is_refused_with=500,
    empty_sort_is_refused=True,
    expire_is_applied_first=False,
    hold_clears_expiry=False,
    enabling_works_state_out=False,
    resuming_asks_whether_online=True,
    timeout_is_for_never_online=False,
    endless_hold_ends_without_expiry=False,
    user_needs_proxies=True,
    woken_by_reset=frozenset(Status) - {Status.EXPIRED},
    woken_by_reset_all=frozenset({Status.LIMITED}),
    reset_rearms_reminder=False,
    revoking_is_an_edit=True,
    periodic_reset_needs_creation=True,
    nodes_follow_every_change=False,
    remaining_flag_is_inverted=True,
    unlimited_has_remaining=False,
    plan_expiry_runs_from_firing=False,
    plan_may_want_both=True,
    plan_event="data_reset_by_next",
    plan_by_hand_is_announced=False,
    hold_event=None,
    state_events_name_admin=True,
    reset_announces_state=False,
    periodic_reset_is_announced=False,
    deletion_shows_user=False,
    deletion_shows_first=False,
    sqlite_keeps_history=False,
    deletion_needs_owner=True,
    reminder_hides_subscription=False,
    days_left_is_exact=False,
    event_time_is_real=False,
    retry_is_told=True,
    deliveries=4,
    batch_size=None,
    delivered=None,
    shown_gib_decimals=5,
    tiny_gib_decimals=None,
    dialog_keeps_next_plan=False,
    dialog_always_sends_state=True,
)
PASARGUARD = SimulatedDialect(
    kind="pasarguard",
    title="PasarGuard",
    version="5.2.1",
    names=re.compile(r"(?=.{3,128}$)(?!.*[-_@.]{2})[A-Za-z0-9_@.-]+", re.ASCII),
    name_rule="3 to 128 letters, digits, -, _, @ and ., no two of the signs in a row",
    admins_have_roles=True,
    first_admin_is_in_database=True,
    reset_all_is_of_everybody=True,
    bad_page_is_refused_with=503,
    empty_sort_is_refused=False,
    expire_is_applied_first=True,
    hold_clears_expiry=True,
    enabling_works_state_out=True,
    resuming_asks_whether_online=False,
    timeout_is_for_never_online=True,
    endless_hold_ends_without_expiry=True,
    user_needs_proxies=False,
    woken_by_reset=frozenset({Status.LIMITED}),
    woken_by_reset_all=frozenset({Status.LIMITED}),
    reset_rearms_reminder=True,
    revoking_is_an_edit=False,
    periodic_reset_needs_creation=False,
    nodes_follow_every_change=True,
    remaining_flag_is_inverted=False,
    unlimited_has_remaining=True,
    plan_expiry_runs_from_firing=True,
    plan_may_want_both=False,
    plan_event="data_usage_reset",
    plan_by_hand_is_announced=True,
    hold_event="user_enabled",
    state_events_name_admin=False,
    reset_announces_state=True,
    periodic_reset_is_announced=True,
    deletion_shows_user=True,
    deletion_shows_first=True,
    sqlite_keeps_history=True,
    deletion_needs_owner=False,
    reminder_hides_subscription=True,
    days_left_is_exact=True,
    event_time_is_real=True,
    retry_is_told=False,
    deliveries=3,
    batch_size=50,
    delivered=frozenset({200, 201, 202, 204}),
    shown_gib_decimals=2,
    tiny_gib_decimals=9,
    dialog_keeps_next_plan=True,
    dialog_always_sends_state=False,
)
PASARGUARD_3 = replace(
    PASARGUARD,
    version="3.1.0",
    admins_have_roles=False,
    reset_all_is_of_everybody=False,
    empty_sort_is_refused=True,
    enabling_works_state_out=False,
    woken_by_reset=frozenset(Status) - {Status.EXPIRED, Status.DISABLED},
    woken_by_reset_all=frozenset(Status),
)
DIALECTS = {"marzban": MARZBAN, "pasarguard": PASARGUARD, "pasarguard-3.1": PASARGUARD_3}


def dialect_of(name: str) -> SimulatedDialect:
    """Return the rules of a panel; ValueError says which there are."""
    if name not in DIALECTS:
        raise ValueError(f"{name!r} is no kind of panel: use {' or '.join(DIALECTS)}")
    return DIALECTS[name]
