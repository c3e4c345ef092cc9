"""What differs between the kinds of panel, as values; pure.

What decides about quotas, resets and writes is told a panel's dialect, and knows no kind by name.
How a kind's interface is spelt is its adapter's business (`marzban`, `pasarguard`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

GIB = 2**30
DIALOG_SLACK_BYTES = 1
"""A browser and Python may round the last byte apart."""


class PanelKind(StrEnum):
    """The kinds of panel there are."""

    MARZBAN = "marzban"
    PASARGUARD = "pasarguard"


class Plan(Protocol):
    """A next plan (`users.NextPlan`)."""

    @property
    def adds_remaining_traffic(self) -> bool:
        """What its flag says, as the panel spells it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of panel behaves."""

    kind: PanelKind
    title: str
    """The panel's name, to be shown."""
    tried_version: str
    """With which all of this was tried."""
    names: re.Pattern[str]
    rule: str
    """The same in words."""

    remaining_is_added_if: bool
    """What a next plan's `add_remaining_traffic` says where it adds what remained."""
    unlimited_has_remaining: bool
    """Whether what an unlimited user used counts as a negative rest when its plan fires."""
    plan_expires_after_firing: bool
    """Whether a next plan's `expire` is seconds from its firing, or a moment."""
    plan_may_be_of_template: bool
    """Whether a next plan may leave its limit to a template."""
    firing_leaves_off_nodes: bool
    """Whether a user who was disabled may be left off the nodes when its next plan fires."""

    lost_to_reset: frozenset[str]
    """The states from which a reset makes a user active, who is to be put back."""
    reset_leaves_off_nodes: bool
    """Whether a user who was limited may be left off the nodes by a reset."""
    periodic_reset_is_announced: bool
    """Whether the panel's periodic reset sends a webhook."""
    reset_all_is_of_everybody: bool
    """Whether a reset of all users covers all owners' users, whichever admin asks for it."""
    admins_have_limits: bool
    """Whether the panel stops admins, and their users with them, at limits of their own."""

    dialog_decimals: int
    """To how many decimals the edit dialog sends a limit back, in GiB."""
    dialog_decimals_of_tiny: int | None
    """The same for a limit that would round to 0; None is as any other."""
    has_edit_times: bool
    """Whether a user says when it was last edited, as opposed to used, reset or changed in bulk."""
    has_webhook_times: bool
    """Whether a webhook says when what it tells of happened."""

    def can_name_user(self, name: str) -> bool:
        """Tell whether a user of such a panel can be called so."""
        return self.names.fullmatch(name) is not None

    def adds_remaining(self, plan: Plan) -> bool:
        """Tell whether a next plan's limit is added to what remains when it fires."""
        return plan.adds_remaining_traffic is self.remaining_is_added_if

    def resent_bytes(self, limit_bytes: int) -> int:
        """Return what the edit dialog makes of a limit that was left as it is."""
        return round(self._resent_gib(limit_bytes) * GIB)

    def resends(self, limit_bytes: int | None, shown_bytes: int | None) -> bool:
        """Tell whether a limit that is shown is another one, saved in the edit dialog unchanged."""
        if limit_bytes is None or shown_bytes is None:
            return False
        return abs(shown_bytes - self._resent_gib(limit_bytes) * GIB) <= DIALOG_SLACK_BYTES

    def resends_odd_limit(self, limit_bytes: int | None, shown_bytes: int | None) -> bool:
        """Tell the same of a limit with more decimals than people type."""
        if limit_bytes is None or not self.resends(limit_bytes, shown_bytes):
            return False
        resent_gib = self._resent_gib(limit_bytes)
        return resent_gib != round(resent_gib, 2)

    def _resent_gib(self, limit_bytes: int) -> float:
        gib = limit_bytes / GIB
        shown = round(gib, self.dialog_decimals)
        if shown == 0 and self.dialog_decimals_of_tiny is not None:
            return round(gib, self.dialog_decimals_of_tiny)
        return shown


MARZBAN = Dialect(
    kind=PanelKind.MARZBAN,
    title="Marzban",
    tried_version="0.8.4",
    names=re.compile(r"(?=\w{3,32}\b)[A-Za-z0-9_@.-]{3,255}", re.ASCII),
    rule="3 to 32 letters, digits and underscores to begin with, then also . @ and -",
    remaining_is_added_if=False,
    unlimited_has_remaining=False,
    plan_expires_after_firing=False,
    plan_may_be_of_template=False,
    firing_leaves_off_nodes=True,
    lost_to_reset=frozenset({"disabled", "on_hold"}),
    reset_leaves_off_nodes=True,
    periodic_reset_is_announced=False,
    reset_all_is_of_everybody=False,
    admins_have_limits=False,
    dialog_decimals=5,
    dialog_decimals_of_tiny=None,
    has_edit_times=False,
    has_webhook_times=False,
)
PASARGUARD = Dialect(
    kind=PanelKind.PASARGUARD,
    title="PasarGuard",
    tried_version="5.2.1",
    names=re.compile(r"(?!.*[_@.-]{2})[A-Za-z0-9_@.-]{3,128}", re.ASCII),
    rule="3 to 128 letters, digits, _, ., @ and -, no two of the signs in a row",
    remaining_is_added_if=True,
    unlimited_has_remaining=True,
    plan_expires_after_firing=True,
    plan_may_be_of_template=True,
    firing_leaves_off_nodes=False,
    lost_to_reset=frozenset(),
    reset_leaves_off_nodes=False,
    periodic_reset_is_announced=True,
    reset_all_is_of_everybody=True,
    admins_have_limits=True,
    dialog_decimals=2,
    dialog_decimals_of_tiny=9,
    has_edit_times=True,
    has_webhook_times=True,
)
PASARGUARD_4 = replace(
    PASARGUARD,
    tried_version="3.1.0",
    lost_to_reset=frozenset({"disabled", "on_hold"}),
    reset_all_is_of_everybody=False,
    admins_have_limits=False,
)
"""PasarGuard up to 4.0: its "Reset all" makes even disabled users active."""
DIALECTS: Mapping[PanelKind, Dialect] = {each.kind: each for each in (MARZBAN, PASARGUARD)}
"""Of the newest panels of each kind."""
