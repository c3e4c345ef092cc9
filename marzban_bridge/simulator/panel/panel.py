"""The simulated panel: what can be asked of it, as one state machine without a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from marzban_bridge.simulator.dialog import dialog_body
from marzban_bridge.simulator.http.answers import admin_answer, subscriber_answer
from marzban_bridge.simulator.http.tokens import (
    admin_token,
    read_admin_token,
    read_subscription_token,
)
from marzban_bridge.simulator.http.webhooks import Event
from marzban_bridge.simulator.panel import jobs, rules
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.listing import UsersQuery, select_users
from marzban_bridge.simulator.panel.payloads import (
    inbounds_of_new_user,
    parse_changes,
    parse_new_user,
)
from marzban_bridge.simulator.panel.records import Database, PanelRecords
from marzban_bridge.simulator.panel.rules import JobDiedError
from marzban_bridge.simulator.panel.users import (
    INBOUNDS,
    XRAY_STATUSES,
    SimulatedAdmin,
    SimulatedUser,
)


class SimulatedPanel(PanelRecords):
    """A Marzban 0.8.4 panel in memory; users go in and out as the JSON its API speaks.

    `admins` maps names to (password, is_sudo). The first is the admin of the panel's environment:
    it has no database row, so users it creates have no owner and its "Reset all" means everybody.
    `database` decides what differs between the databases under a panel: MySQL ignores blanks at
    the end of usernames, SQLite does not, and breaks on less. Both tell `Alice` from `alice`.
    `by` names the acting admin, by default that of the environment. What the panel refuses is a
    RefusedError with the status and body of its answer.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        admins: Mapping[str, tuple[str, bool]] | None = None,
        database: Database = "mysql",
        subscription_path: str = "sub",
        token_minutes: float = 1440,
        secret: str = "simulated",  # noqa: S107 - signs the tokens of a panel that guards nothing
        sends_webhooks: bool = True,
    ) -> None:
        super().__init__(
            clock=clock,
            database=database,
            subscription_path=subscription_path,
            secret=secret,
            sends_webhooks=sends_webhooks,
        )
        self._token_minutes = token_minutes
        for name, (password, is_sudo) in (admins or {"admin": ("admin", True)}).items():
            self.add_admin(name, password=password, is_sudo=is_sudo)

    def add_admin(self, username: str, *, password: str, is_sudo: bool = False) -> SimulatedAdmin:
        """Add an admin; all but the first have a row in the panel's database."""
        self.revision += 1
        admin = SimulatedAdmin(
            username=username,
            password=password,
            is_sudo=is_sudo,
            is_in_database=bool(self.admins),
        )
        self.admins[username] = admin
        return admin

    def sign_in(self, username: str, password: str) -> str:
        """Return a bearer token; RefusedError 401 for a wrong name or password."""
        admin = self.admins.get(username)
        if admin is None or admin.password != password:
            raise RefusedError(401, "Incorrect username or password")
        return admin_token(
            username,
            is_sudo=admin.is_sudo,
            now=self.clock(),
            life_minutes=self._token_minutes,
            secret=self.secret,
        )

    def admin_of(self, token: str) -> SimulatedAdmin:
        """Return whose bearer token it is; RefusedError 401 for one that is not valid any more."""
        username = read_admin_token(token, now=self.clock(), secret=self.secret)
        if username is None or username not in self.admins:
            raise RefusedError(401, "Could not validate credentials")
        return self.admins[username]

    def find_admin(self, username: str) -> SimulatedAdmin:
        """Return an admin of the panel's database; RefusedError 404 for anybody else."""
        admin = self.admins.get(username)
        if admin is None or not admin.is_in_database:
            raise RefusedError(404, "Admin not found")
        return admin

    def create_user(self, username: str, *, by: str | None = None, **fields: Any) -> dict[str, Any]:
        """Create a user with every protocol and inbound unless `fields` say otherwise."""
        body = {"proxies": {protocol: {} for protocol in INBOUNDS}, "inbounds": {}} | fields
        return self.create_from_request(body | {"username": username}, by=by)

    def create_from_request(self, body: object, *, by: str | None = None) -> dict[str, Any]:
        """Create a user from a request's body as it is."""
        username, changes, auto_delete_in_days = parse_new_user(body)
        if self.key(username) in self.users:
            raise RefusedError(409, "User already exists")
        admin = self._acting(by)
        now = self.clock()
        user = SimulatedUser(
            id=next(self.ids),
            username=username,
            created_at=now,
            owner=admin.username if admin.is_in_database else None,
            auto_delete_in_days=auto_delete_in_days,
            proxies=changes.proxies or {},
            inbounds=inbounds_of_new_user(changes),
            data_limit=changes.data_limit or None,
            expire=changes.expire or None,
            note=changes.note,
            next_plan=changes.next_plan,
            on_hold_timeout=changes.on_hold_timeout,
            on_hold_expire_duration=changes.on_hold_expire_duration,
            in_xray=True,
        )
        user.status = changes.status or user.status
        user.data_limit_reset_strategy = (
            changes.data_limit_reset_strategy or user.data_limit_reset_strategy
        )
        self.users[self.key(username)] = user
        self.revision += 1
        answer = self.show(user)
        self.announce("user_created", user, by=admin_answer(admin))
        return answer

    def get_user(self, username: str) -> dict[str, Any]:
        """Return a user."""
        return self.show(self.find(username))

    def list_users(
        self, query: UsersQuery | None = None, *, usernames: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return a page of users; one user that cannot be shown breaks the page.

        Unsorted, named users come by name and all others by age, as the database happens to find
        them.
        Marzban 0.8.4 with SQLite ignores a negative limit or offset, which MySQL refuses.
        """
        query = query or UsersQuery()
        if self.database == "mysql" and min(query.limit or 0, query.offset or 0) < 0:
            raise failure()
        users: Collection[SimulatedUser] = self.users.values()
        if usernames:
            named = (self.users.get(key) for key in dict.fromkeys(map(self.key, usernames)))
            users = sorted((user for user in named if user), key=lambda user: user.username)
        page, total = select_users(users, query)
        return {"users": [self.show(user) for user in page], "total": total}

    def modify_user(
        self, username: str, body: Mapping[str, Any], *, by: str | None = None
    ) -> dict[str, Any]:
        """Apply a PUT with this body; without `next_plan` in it the user's next plan is deleted."""
        user = self.find(username)
        return self._modify(user, parse_changes(body), by=self._acting(by))

    def _modify(
        self, user: SimulatedUser, changes: rules.UserChanges, *, by: SimulatedAdmin
    ) -> dict[str, Any]:
        old_status = user.status
        self.revision += 1
        rules.modify(user, changes, now=self.clock())
        answer = self.show(user)
        user.in_xray = user.status in XRAY_STATUSES
        self.announce("user_updated", user, by=admin_answer(by))
        if user.status is not old_status:
            self.announce_status(user, by=by)
        return answer

    def edit_in_dialog(
        self, username: str, *, by: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Save the panel's own edit dialog after an admin changed these fields in it.

        `data_limit` is in bytes here, `None` and 0 are unlimited. Saving deletes the next plan.
        """
        user = self.find(username)
        return self.modify_user(username, dialog_body(self.show(user), changes), by=by)

    def delete_user(self, username: str, *, by: str | None = None) -> SimulatedUser:
        """Delete a user and return what it was.

        Marzban 0.8.4: for a user without an owner the request answers 500 and sends no webhook,
        but the user is gone.
        """
        user = self.find(username)
        del self.users[self.key(username)]
        self.revision += 1
        if user.owner is not None:
            self.announce("user_deleted", user, by=admin_answer(self._acting(by)))
        return user

    def reset_user(self, username: str, *, by: str | None = None) -> dict[str, Any]:
        """Press "Reset usage": also wakes the disabled and those on hold."""
        user = self.find(username)
        self.revision += 1
        rules.reset(user, now=self.clock())
        answer = self.show(user)
        user.in_xray = user.in_xray or user.status in XRAY_STATUSES
        self.announce("data_usage_reset", user, by=admin_answer(self._acting(by)))
        return answer

    def reset_all(self, by: str | None = None) -> None:
        """Press "Reset all": the users of a database admin, or everybody; no webhook.

        Xray is started anew with whoever belongs into it.
        """
        admin = self._acting(by)
        self.revision += 1
        for user in self.users.values():
            if not admin.is_in_database or user.owner == admin.username:
                rules.wipe(user)
            user.in_xray = user.status in XRAY_STATUSES

    def disable_users_of(self, admin: str) -> None:
        """Disable an admin's active users and those on hold; no webhook."""
        self._switch_users_of(admin, rules.switch_off)

    def activate_users_of(self, admin: str) -> None:
        """Make an admin's disabled users active, whoever disabled them; no webhook."""
        self._switch_users_of(admin, rules.switch_on)

    def _switch_users_of(self, admin: str, switch: Callable[[SimulatedUser], None]) -> None:
        """Xray is started anew with whoever belongs into it."""
        owner = self.find_admin(admin).username
        self.revision += 1
        for user in self.users.values():
            if user.owner == owner:
                switch(user)
            user.in_xray = user.status in XRAY_STATUSES

    def fire_next_plan(self, username: str) -> None:
        """Fire a user's next plan by hand.

        Marzban 0.8.4: always answers 404, fired or not, puts nobody into xray who was not in it,
        and sends no webhook. For an unlimited user it breaks and nothing happens, unless the plan
        adds what remained.
        """
        user = self.find(username)
        try:
            rules.fire_next_plan(user, now=self.clock())
        except JobDiedError as error:
            raise failure() from error
        self.revision += 1

    def revoke_subscription(self, username: str, *, by: str | None = None) -> dict[str, Any]:
        """Make the user's subscription tokens of earlier seconds invalid."""
        user = self.find(username)
        self.revision += 1
        user.sub_revoked_at = self.clock()
        as_it_is = rules.UserChanges(
            status=user.status,
            data_limit=user.data_limit,
            expire=user.expire,
            next_plan=user.next_plan,
        )
        rules.modify(user, as_it_is, now=self.clock())
        answer = self.show(user)
        user.in_xray = user.in_xray or user.status in XRAY_STATUSES
        self.announce("subscription_revoked", user, by=admin_answer(self._acting(by)))
        return answer

    def subscriber(self, token: str) -> SimulatedUser:
        """Return whose subscription token it is; RefusedError 404 for a bad or revoked one."""
        subscription = read_subscription_token(token, secret=self.secret)
        user = self.users.get(self.key(subscription.username)) if subscription else None
        if user is None or subscription is None:
            raise RefusedError(404, "Not Found")
        if user.created_at is None:
            raise failure()
        if max(user.created_at, user.sub_revoked_at or user.created_at) > subscription.issued_at:
            raise RefusedError(404, "Not Found")
        return user

    def show_to_subscriber(self, token: str) -> dict[str, Any]:
        """Return what a subscription token shows of its user."""
        return subscriber_answer(self.show(self.subscriber(token)))

    def use_traffic(self, username: str, count_bytes: int) -> bool:
        """Let a user use traffic on the panel's own node, and say whether it could.

        Users who are not in xray cannot.
        """
        user = self.find(username)
        if not user.in_xray:
            return False
        self.revision += 1
        user.used_traffic += count_bytes
        user.online_at = self.clock()
        if user.owner:
            self.admins[user.owner].users_usage += count_bytes
        return True

    def review(self) -> JobDiedError | None:
        """Run the job that limits, expires and fires next plans; return what it died of, if so."""
        return self._run(jobs.review)

    def reset_periodic(self) -> JobDiedError | None:
        """Run the hourly job of the reset strategies; return what it died of, if so."""
        return self._run(jobs.reset_periodic)

    def _run(self, job: Callable[[PanelRecords], None]) -> JobDiedError | None:
        try:
            job(self)
        except JobDiedError as error:
            return error
        return None

    def take_webhooks(self, now: datetime | None = None) -> list[Event]:
        """Remove and return the webhook events that are due, as one batch."""
        return self.webhooks.take(now or self.clock())

    def webhooks_failed(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Take back a batch that no receiver accepted, to be sent again later."""
        self.webhooks.failed(batch, self.clock())

    def _acting(self, by: str | None) -> SimulatedAdmin:
        return self.environment_admin if by is None else self.admins[by]
