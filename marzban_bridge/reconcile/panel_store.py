"""What deciding about a whole panel, and not about one user, needs of the store."""

from __future__ import annotations

from typing import Protocol

from marzban_bridge.store.accounts import Accounts
from marzban_bridge.store.events import Events
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.suspension import PanelSuspension


class PanelStore(Protocol):
    """What is stored of one panel, for those who tell whether it may be acted on."""

    panel: str
    """Its name."""
    accounts: Accounts
    events: Events
    placement: Placement
    suspension: PanelSuspension

    @property
    def panels(self) -> tuple[str, ...]:
        """The configured panels, in order."""
        ...

    def meta(self, key: str) -> str | None:
        """Return a stored fact, None when there is none."""
        ...

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact; durable when it returns."""
        ...
