"""The users of the demo; each shows one feature of the product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from marzban_bridge.quota.account import GIB
from marzban_bridge.simulator.panel.dialect import SimulatedDialect


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A user of the simulated panel; rates are GiB per second, the external one for each sender."""

    username: str
    shows: str
    quota_gib: float | None
    external_rate: float = 0.0
    panel_rate: float = 0.0
    owner: str = "admin"
    next_plan_gib: float | None = None
    panel_fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def quota_bytes(self) -> int | None:
        """The data limit in bytes, None for unlimited."""
        return None if self.quota_gib is None else int(self.quota_gib * GIB)

    def fields_on(self, panel: SimulatedDialect) -> Mapping[str, object]:
        """Return what the panel is to make of the user; what remained is added to no next plan."""
        fields = {"data_limit": self.quota_bytes or 0, **self.panel_fields}
        if self.next_plan_gib is not None:
            fields["next_plan"] = {
                "data_limit": int(self.next_plan_gib * GIB),
                "expire": 0,
                "add_remaining_traffic": panel.remaining_flag_is_inverted,
            }
        return fields


CAST = (
    Role(
        username="alice",
        shows="limited, then reset by the panel's button",
        quota_gib=10,
        external_rate=0.5,
        panel_rate=0.7,
    ),
    Role(
        username="bob",
        shows="external traffic only: disabled by the bridge, back after a reset",
        quota_gib=5,
        external_rate=0.3,
    ),
    Role(
        username="carol",
        shows="limited, then given a larger quota in the panel",
        quota_gib=8,
        external_rate=0.3,
        panel_rate=0.5,
    ),
    Role(
        username="dave",
        shows="a next plan waits, and fires when the quota is used up",
        quota_gib=6,
        external_rate=0.2,
        panel_rate=0.2,
        next_plan_gib=30,
    ),
    Role(
        username="erin",
        shows="unlimited: counted, never touched",
        quota_gib=None,
        external_rate=0.6,
        panel_rate=1.0,
    ),
    Role(
        username="frank",
        shows="on hold: counted, stays on hold",
        quota_gib=3,
        external_rate=0.02,
        panel_fields={"status": "on_hold", "on_hold_expire_duration": 86400},
    ),
    Role(
        username="judy",
        shows="a reseller's user, reset by the reseller through our API",
        quota_gib=4,
        external_rate=0.15,
        panel_rate=0.15,
        owner="reseller",
    ),
    Role(
        username="mallory",
        shows="reports for itself with its subscription token",
        quota_gib=50,
        external_rate=0.3,
        owner="reseller",
    ),
)
UNKNOWN_NAME = "nobody-knows-me"
"""A name that is reported and that the panel does not have."""
