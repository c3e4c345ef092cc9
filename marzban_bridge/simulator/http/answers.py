"""How a kind of panel spells what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedUser


@dataclass(frozen=True, slots=True)
class ShownUser:
    """A user, and what an answer shows of the panel around it."""

    user: SimulatedUser
    owner: SimulatedAdmin | None
    subscription_url: str
    secret: str
    """The panel's; from it follow the user's credentials, unlike any other's."""


class Answers(Protocol):
    """The JSON of one kind of panel, as its API and its webhooks spell it."""

    def admin(self, admin: SimulatedAdmin, *, total_users: int) -> dict[str, Any]:
        """Return an admin."""

    def acting(self, admin: SimulatedAdmin) -> dict[str, Any]:
        """Return the admin who did something, as an event names it."""

    def system(self) -> dict[str, Any] | None:
        """Return the panel itself, where an event names it as who did something."""

    def user(self, shown: ShownUser) -> dict[str, Any]:
        """Return a user."""

    def user_in_event(self, shown: ShownUser) -> dict[str, Any]:
        """Return a user as an event carries it."""

    def subscriber(self, user: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a user's answer that its subscription shows."""
