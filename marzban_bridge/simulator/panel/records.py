"""What the simulated panel keeps, and how it shows and announces it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any, Literal

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.http.answers import Answers, ShownUser
from marzban_bridge.simulator.http.marzban_answers import MarzbanAnswers
from marzban_bridge.simulator.http.pasarguard_answers import PasarGuardAnswers
from marzban_bridge.simulator.http.tokens import subscription_token
from marzban_bridge.simulator.http.webhooks import WebhookQueue
from marzban_bridge.simulator.panel import rules
from marzban_bridge.simulator.panel.api_keys import ApiKey
from marzban_bridge.simulator.panel.dialect import SimulatedDialect
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.roles import BUILT_IN, Role
from marzban_bridge.simulator.panel.users import (
    XRAY_STATUSES,
    SimulatedAdmin,
    SimulatedTemplate,
    SimulatedUser,
)
from marzban_bridge.simulator.panel.webhook_settings import WebhookSettings

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
        dialect: SimulatedDialect,
        database: Database,
        subscription_path: str,
        secret: str,
        sends_webhooks: bool,
        token_minutes: float,
    ) -> None:
        self.clock = clock
        self.dialect = dialect
        self.answers: Answers = (
            PasarGuardAnswers(has_roles=dialect.admins_have_roles)
            if dialect.kind == "pasarguard"
            else MarzbanAnswers()
        )
        self.database = database
        self.subscription_path = subscription_path
        self.secret = secret
        self.token_minutes = token_minutes
        self.users: dict[str, SimulatedUser] = {}
        """Users by `key` of their name, oldest first."""
        self.admins: dict[str, SimulatedAdmin] = {}
        self.roles: dict[int, Role] = {role.id: role for role in BUILT_IN}
        self.api_keys: dict[str, ApiKey] = {}
        """API keys by their text; PasarGuard's alone, as the roles and templates are."""
        self.templates: dict[int, SimulatedTemplate] = {}
        self.webhooks = WebhookQueue(started_at=clock(), dialect=dialect)
        self.webhook_settings = WebhookSettings(
            enable=sends_webhooks, deliveries=dialect.deliveries
        )
        self.ids = count(1)
        self._left_behind: dict[int, SimulatedUser] = {}
        self.revision = 0
        """Increased by every change, so that a copy can be compared."""

    @property
    def sends_webhooks(self) -> bool:
        """Whether events are kept at all."""
        return self.webhook_settings.enable

    def key(self, username: str) -> str:
        """Return what the panel's database compares of a username.

        Both panels tell `Alice` from `alice` on each; MySQL pads names with blanks to compare.
        """
        return username.rstrip(" ") if self.database == "mysql" else username

    def find(self, username: str) -> SimulatedUser:
        """Return a user; RefusedError 404 if there is none of that name."""
        try:
            return self.users[self.key(username)]
        except KeyError:
            raise RefusedError(404, "User not found") from None

    def find_by_id(self, user_id: int) -> SimulatedUser:
        """Return a user; RefusedError 404 if there is none of that number."""
        for user in self.users.values():
            if user.id == user_id:
                return user
        raise RefusedError(404, "User not found")

    @property
    def _keeps_history(self) -> bool:
        return self.database == "sqlite" and self.dialect.sqlite_keeps_history

    def next_id(self) -> int:
        """Return a new user's number; one that was given out before where numbers come again."""
        if self._keeps_history:
            return 1 + max((user.id for user in self.users.values()), default=0)
        return next(self.ids)

    def leave_behind(self, user: SimulatedUser) -> None:
        """Keep what stays in the database of a deleted user."""
        if self._keeps_history:
            self._left_behind[user.id] = user

    def inherit(self, user: SimulatedUser) -> None:
        """Give a new user what an earlier one of its number left behind."""
        earlier = self._left_behind.pop(user.id, None)
        if earlier:
            user.reset_logs = list(earlier.reset_logs)
            user.next_plan = user.next_plan or earlier.next_plan

    @property
    def environment_admin(self) -> SimulatedAdmin:
        """The admin from the panel's environment, or its owner."""
        return next(iter(self.admins.values()))

    def template_of(self, user: SimulatedUser) -> SimulatedTemplate | None:
        """Return the template that a user's next plan points to, if it does."""
        template_id = user.next_plan.user_template_id if user.next_plan else None
        return None if template_id is None else self.templates[template_id]

    def belongs_in_xray(self, user: SimulatedUser) -> bool:
        """Say whether the nodes are to let a user through."""
        owner = self.admins.get(user.owner or "")
        return user.status in XRAY_STATUSES and not (owner and owner.cuts_users_off)

    def follow_admin(self, admin: SimulatedAdmin) -> None:
        """Have the nodes let an admin's users through, or not, after its own state changed."""
        for user in self.users.values():
            if user.owner == admin.username:
                user.in_xray = self.belongs_in_xray(user)

    def show(self, user: SimulatedUser, *, has_url: bool = True) -> dict[str, Any]:
        """Return a user's JSON; RefusedError 500 if the panel cannot show it."""
        return self._shown(self.answers.user, user, has_url=has_url)

    def _shown(
        self, answer: Callable[[ShownUser], dict[str, Any]], user: SimulatedUser, *, has_url: bool
    ) -> dict[str, Any]:
        if rules.is_unreadable(user, dialect=self.dialect):
            raise failure()
        owner = self.admins[user.owner] if user.owner else None
        url = self._subscription_url(user) if has_url else ""
        return answer(ShownUser(user, owner, url, self.secret))

    def _subscription_url(self, user: SimulatedUser) -> str:
        token = subscription_token(
            user.username,
            user_id=user.id,
            kind=self.dialect.kind,
            now=self.clock(),
            secret=self.secret,
        )
        return f"/{self.subscription_path}/{token}"

    def show_admin(self, admin: SimulatedAdmin) -> dict[str, Any]:
        """Return an admin's JSON."""
        owned = sum(user.owner == admin.username for user in self.users.values())
        return self.answers.admin(admin, total_users=owned)

    def announce(self, action: str, user: SimulatedUser, **fields: Any) -> None:
        """Queue a webhook event about a user; RefusedError 500 if the panel cannot show it."""
        if not self.sends_webhooks:
            return
        is_deletion = action == "user_deleted"
        if not is_deletion or self.dialect.deletion_shows_user:
            is_reminder = action in {"reached_usage_percent", "reached_days_left"}
            hides_url = self.dialect.reminder_hides_subscription and (is_reminder or is_deletion)
            fields["user"] = self._shown(self.answers.user_in_event, user, has_url=not hides_url)
        self.webhooks.add(action, user.username, fields, now=self.clock())

    def announce_status(self, user: SimulatedUser, *, by: SimulatedAdmin | None) -> None:
        """Queue the event of a user's new state; limited and expired do not say who did it."""
        action = EVENT_OF_STATUS.get(user.status, self.dialect.hold_event)
        who = self.answers.acting(by) if by and self.dialect.state_events_name_admin else None
        if action in {"user_limited", "user_expired"}:
            self.announce(action, user)
        elif action == "user_disabled":
            self.announce(action, user, by=who, reason=None)
        elif action is not None:
            self.announce(action, user, by=who)
