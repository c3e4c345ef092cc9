"""What the simulated panel keeps, and how it shows and announces it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any, Literal

from marzban_bridge.panels.port import Status
from marzban_bridge.simulator.http.answers import admin_answer, user_answer
from marzban_bridge.simulator.http.tokens import subscription_token
from marzban_bridge.simulator.http.webhooks import WebhookQueue
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedUser

Database = Literal["mysql", "sqlite"]

EVENT_OF_STATUS = {
    Status.LIMITED: "user_limited",
    Status.EXPIRED: "user_expired",
    Status.DISABLED: "user_disabled",
    Status.ACTIVE: "user_enabled",
}


class PanelRecords:
    """Users, admins and the webhook queue of one panel."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        database: Database,
        subscription_path: str,
        secret: str,
        sends_webhooks: bool,
    ) -> None:
        self.clock = clock
        self.database = database
        self.subscription_path = subscription_path
        self.secret = secret
        self.users: dict[str, SimulatedUser] = {}
        """Users by `key` of their name, oldest first."""
        self.admins: dict[str, SimulatedAdmin] = {}
        self.webhooks = WebhookQueue(started_at=clock())
        self.sends_webhooks = sends_webhooks
        self.ids = count(1)
        self.revision = 0
        """Grows with every change, for whoever keeps a copy."""

    def key(self, username: str) -> str:
        """Return what the panel's database compares of a username.

        Marzban 0.8.4 tells `Alice` from `alice` on both; MySQL pads names with blanks to compare.
        """
        return username.rstrip(" ") if self.database == "mysql" else username

    def find(self, username: str) -> SimulatedUser:
        """Return a user; RefusedError 404 if there is none of that name."""
        try:
            return self.users[self.key(username)]
        except KeyError:
            raise RefusedError(404, "User not found") from None

    @property
    def environment_admin(self) -> SimulatedAdmin:
        """The admin from the panel's environment."""
        return next(iter(self.admins.values()))

    def show(self, user: SimulatedUser) -> dict[str, Any]:
        """Return a user's JSON; RefusedError 500 if the panel cannot show it."""
        if user.is_unreadable:
            raise failure()
        token = subscription_token(user.username, now=self.clock(), secret=self.secret)
        return user_answer(
            user,
            owner=self.admins[user.owner] if user.owner else None,
            subscription_url=f"/{self.subscription_path}/{token}",
            secret=self.secret,
        )

    def announce(self, action: str, user: SimulatedUser, **fields: Any) -> None:
        """Queue a webhook event about a user; RefusedError 500 if the panel cannot show it."""
        if not self.sends_webhooks:
            return
        if action != "user_deleted":
            fields["user"] = self.show(user)
        self.webhooks.add(action, user.username, fields)

    def announce_status(self, user: SimulatedUser, *, by: SimulatedAdmin | None) -> None:
        """Queue the event of a user's new state.

        Marzban 0.8.4: on_hold has none, limited and expired do not say who did it.
        """
        action = EVENT_OF_STATUS.get(user.status)
        who = admin_answer(by) if by else None
        if action in {"user_limited", "user_expired"}:
            self.announce(action, user)
        elif action == "user_disabled":
            self.announce(action, user, by=who, reason=None)
        elif action is not None:
            self.announce(action, user, by=who)
