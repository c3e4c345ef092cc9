"""The simulated panel: what can be asked of it, as one state machine without a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from marzban_bridge.simulator.dialog import dialog_body
from marzban_bridge.simulator.http.tokens import read_subscription_token
from marzban_bridge.simulator.http.webhooks import Event
from marzban_bridge.simulator.panel import jobs, rules
from marzban_bridge.simulator.panel.admins import PanelAdmins
from marzban_bridge.simulator.panel.dialect import dialect_of
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.listing import UsersQuery, select_users
from marzban_bridge.simulator.panel.payloads import marzban
from marzban_bridge.simulator.panel.payloads.pasarguard import PayloadReader
from marzban_bridge.simulator.panel.records import Database, PanelRecords
from marzban_bridge.simulator.panel.rules import JobDiedError, UserChanges
from marzban_bridge.simulator.panel.users import INBOUNDS, SimulatedAdmin, SimulatedUser


class SimulatedPanel(PanelAdmins):
    """A panel in memory; users go in and out as the JSON its API speaks.

    `kind` is `marzban` (0.8.4), `pasarguard` (5.2.1) or `pasarguard-3.1` (3.1.0); ValueError for
    another. `admins` maps names to (password, is_sudo). The first is the admin of the panel's
    environment, or its owner: where it has no database row, users it creates have no owner and its
    "Reset all" means everybody.
    `database` decides what differs between the databases under a panel: MySQL ignores blanks at
    the end of usernames, SQLite does not, and breaks on less. Both tell `Alice` from `alice`.
    `by` names the acting admin, by default the first. What the panel refuses is a RefusedError with
    the status and body of its answer.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        kind: str = "marzban",
        admins: Mapping[str, tuple[str, bool]] | None = None,
        database: Database = "mysql",
        subscription_path: str = "sub",
        token_minutes: float = 1440,
        secret: str = "simulated",  # noqa: S107 - signs the tokens of a panel that guards nothing
        sends_webhooks: bool = True,
    ) -> None:
        super().__init__(
            clock=clock,
            dialect=dialect_of(kind),
            database=database,
            subscription_path=subscription_path,
            secret=secret,
            sends_webhooks=sends_webhooks,
            token_minutes=token_minutes,
        )
        for name, (password, is_sudo) in (admins or {"admin": ("admin", True)}).items():
            self.add_admin(name, password=password, is_sudo=is_sudo)

    def create_user(self, username: str, *, by: str | None = None, **fields: Any) -> dict[str, Any]:
        """Create a user who may use everything unless `fields` say otherwise."""
        everything: dict[str, Any] = {
            "proxies": {protocol: {} for protocol in INBOUNDS},
            "inbounds": {},
        }
        if self.kind == "pasarguard":
            everything = {"group_ids": [1]}
        return self.create_from_request(everything | fields | {"username": username}, by=by)

    def create_from_request(self, body: object, *, by: str | None = None) -> dict[str, Any]:
        """Create a user from a request's body as it is."""
        username, changes, auto_delete_in_days = self._read_new_user(body)
        if self.key(username) in self.users:
            raise RefusedError(409, "User already exists")
        admin = self.acting(by)
        now = self.clock()
        user = SimulatedUser(
            id=self.next_id(),
            username=username,
            created_at=now,
            owner=admin.username if admin.is_in_database else None,
            auto_delete_in_days=auto_delete_in_days,
            proxies=changes.proxies or {},
            inbounds=marzban.inbounds_of_new_user(changes),
            group_ids=changes.group_ids or [],
            hwid_limit=changes.hwid_limit,
            data_limit=changes.data_limit or None,
            expire=changes.expire or None,
            note=changes.note,
            next_plan=changes.next_plan,
            on_hold_timeout=changes.on_hold_timeout,
            on_hold_expire_duration=changes.on_hold_expire_duration,
        )
        self.inherit(user)
        user.status = changes.status or user.status
        user.data_limit_reset_strategy = (
            changes.data_limit_reset_strategy or user.data_limit_reset_strategy
        )
        self.users[self.key(username)] = user
        user.in_xray = self.belongs_in_xray(user)
        self.revision += 1
        answer = self.show(user)
        self.announce("user_created", user, by=self.answers.acting(admin))
        return answer

    def get_user(self, username: str) -> dict[str, Any]:
        """Return a user."""
        return self.show(self.find(username))

    def list_users(
        self,
        query: UsersQuery | None = None,
        *,
        usernames: Sequence[str] | None = None,
        has_url: bool = True,
    ) -> dict[str, Any]:
        """Return a page of users; one user that cannot be shown breaks the page."""
        page, total = self.select(query, usernames=usernames)
        return {"users": [self.show(user, has_url=has_url) for user in page], "total": total}

    def select(
        self, query: UsersQuery | None = None, *, usernames: Sequence[str] | None = None
    ) -> tuple[list[SimulatedUser], int]:
        """Return a page of users and how many there are on all pages.

        Unsorted, named users come by name and all others by age, as the database happens to find
        them. SQLite ignores a negative limit or offset, which MySQL refuses.
        """
        query = query or UsersQuery()
        if self.database == "mysql" and min(query.limit or 0, query.offset or 0) < 0:
            raise self.database_failure()
        users: Collection[SimulatedUser] = self.users.values()
        if usernames:
            named = (self.users.get(key) for key in dict.fromkeys(map(self.key, usernames)))
            users = sorted((user for user in named if user), key=lambda user: user.username)
        return select_users(users, query)

    def database_failure(self) -> RefusedError:
        """Return the answer to a request that the panel's database refuses."""
        if self.dialect.bad_page_is_refused_with == 503:
            return RefusedError(503, "Database temporarily unavailable")
        return failure()

    def modify_user(
        self, username: str, body: Mapping[str, Any], *, by: str | None = None
    ) -> dict[str, Any]:
        """Apply a PUT with this body; without `next_plan` in it the user's next plan is deleted."""
        user = self.find(username)
        return self._modify(user, self._read_changes(body), by=self.acting(by))

    def _read_changes(self, body: object) -> UserChanges:
        return self._reader().changes(body) if self._reads_groups else marzban.parse_changes(body)

    def _read_new_user(self, body: object) -> tuple[str, UserChanges, int | None]:
        return self._reader().new_user(body) if self._reads_groups else marzban.parse_new_user(body)

    @property
    def _reads_groups(self) -> bool:
        return self.kind == "pasarguard"

    def _reader(self) -> PayloadReader:
        too_large = self.database_failure() if self.database == "mysql" else failure()
        return PayloadReader(now=self.clock(), templates=self.templates, too_large=too_large)

    def _modify(
        self, user: SimulatedUser, changes: UserChanges, *, by: SimulatedAdmin
    ) -> dict[str, Any]:
        old_status = user.status
        self.revision += 1
        rules.modify(user, changes, now=self.clock(), dialect=self.dialect)
        answer = self.show(user)
        user.in_xray = self.belongs_in_xray(user)
        self.announce("user_updated", user, by=self.answers.acting(by))
        if user.status is not old_status:
            self.announce_status(user, by=by)
        return answer

    def edit_in_dialog(
        self, username: str, *, by: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Save the panel's own edit dialog after an admin changed these fields in it.

        `data_limit` is in bytes here, `None` and 0 are unlimited.
        """
        user = self.find(username)
        body = dialog_body(self.show(user), changes, dialect=self.dialect)
        return self.modify_user(username, body, by=by)

    def delete_user(self, username: str, *, by: str | None = None) -> SimulatedUser:
        """Delete a user and return what it was.

        Where a deletion needs an owner, the request for a user without one answers 500 and sends
        no webhook, but the user is gone.
        """
        user = self.find(username)
        if self.dialect.deletion_shows_first:
            self.show(user)
        del self.users[self.key(username)]
        self.leave_behind(user)
        self.revision += 1
        if user.owner is not None or not self.dialect.deletion_needs_owner:
            self.announce("user_deleted", user, by=self.answers.acting(self.acting(by)))
        return user

    def reset_user(self, username: str, *, by: str | None = None) -> dict[str, Any]:
        """Press "Reset usage"."""
        user = self.find(username)
        old_status = user.status
        self.revision += 1
        rules.reset(user, now=self.clock(), dialect=self.dialect)
        answer = self.show(user)
        self._let_in(user)
        if self.dialect.reset_announces_state and user.status is not old_status:
            self.announce_status(user, by=self.acting(by))
        self.announce("data_usage_reset", user, by=self.answers.acting(self.acting(by)))
        return answer

    def _let_in(self, user: SimulatedUser) -> None:
        """Have the nodes let a user through that belongs there; Marzban cuts no user off here."""
        stays = user.in_xray and not self.dialect.nodes_follow_every_change
        user.in_xray = stays or self.belongs_in_xray(user)

    def reset_all(self, by: str | None = None) -> None:
        """Press "Reset all": the users of a database admin, or everybody; no webhook.

        Xray is restarted with the users that belong into it.
        """
        admin = self.acting(by)
        is_of_all = self.dialect.reset_all_is_of_everybody or not admin.is_in_database
        self.revision += 1
        for user in self.users.values():
            if is_of_all or user.owner == admin.username:
                rules.wipe(user, dialect=self.dialect)
            user.in_xray = self.belongs_in_xray(user)

    def disable_users_of(self, admin: str) -> None:
        """Disable an admin's active users and those on hold; no webhook."""
        self._switch_users_of(admin, rules.switch_off)

    def activate_users_of(self, admin: str) -> None:
        """Make an admin's disabled users active, also those it did not disable; no webhook."""
        self._switch_users_of(admin, partial(rules.switch_on, dialect=self.dialect))

    def _switch_users_of(self, admin: str, switch: Callable[[SimulatedUser], None]) -> None:
        """Xray is restarted with the users that belong into it."""
        owner = self.find_admin(admin).username
        self.revision += 1
        for user in self.users.values():
            if user.owner == owner:
                switch(user)
            user.in_xray = self.belongs_in_xray(user)

    def fire_next_plan(self, username: str, *, by: str | None = None) -> None:
        """Fire a user's next plan by hand, if it has one.

        Marzban adds the user to xray only if it was in it, and sends no webhook. RefusedError 500,
        and nothing happens, where the panel cannot compute the new limit.
        """
        user = self.find(username)
        if user.next_plan is None:
            return
        old_status = user.status
        template = self.template_of(user)
        try:
            rules.fire_next_plan(user, now=self.clock(), dialect=self.dialect, template=template)
        except JobDiedError as error:
            raise failure() from error
        self.revision += 1
        if self.dialect.nodes_follow_every_change:
            user.in_xray = self.belongs_in_xray(user)
        if self.dialect.plan_by_hand_is_announced:
            if user.status is not old_status:
                self.announce_status(user, by=self.acting(by))
            self.announce(self.dialect.plan_event, user)

    def revoke_subscription(self, username: str, *, by: str | None = None) -> dict[str, Any]:
        """Make the user's subscription tokens of earlier seconds invalid."""
        user = self.find(username)
        self.revision += 1
        user.sub_revoked_at = self.clock()
        if self.dialect.revoking_is_an_edit:
            as_it_is = UserChanges(
                status=user.status,
                data_limit=user.data_limit,
                expire=user.expire,
                next_plan=user.next_plan,
            )
            rules.modify(user, as_it_is, now=self.clock(), dialect=self.dialect)
        answer = self.show(user)
        self._let_in(user)
        self.announce("subscription_revoked", user, by=self.answers.acting(self.acting(by)))
        return answer

    def subscriber(self, token: str) -> SimulatedUser:
        """Return whose subscription token it is; RefusedError 404 for a bad or revoked one."""
        subscription = read_subscription_token(token, kind=self.kind, secret=self.secret)
        if subscription is None:
            raise RefusedError(404, "Not Found")
        if subscription.username is None:
            ids = (each for each in self.users.values() if each.id == subscription.user_id)
            user = next(ids, None)
        else:
            user = self.users.get(self.key(subscription.username))
        if user is None:
            raise RefusedError(404, "Not Found")
        if user.created_at is None:
            raise failure()
        if max(user.created_at, user.sub_revoked_at or user.created_at) > subscription.issued_at:
            raise RefusedError(404, "Not Found")
        return user

    def show_to_subscriber(self, token: str) -> dict[str, Any]:
        """Return what a subscription token shows of its user."""
        return self.answers.subscriber(self.show(self.subscriber(token)))

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

    def webhooks_failed(self, batch: Sequence[Event]) -> None:
        """Take back a batch that no receiver accepted, to be sent again later."""
        settings = self.webhook_settings
        self.webhooks.failed(
            batch,
            self.clock(),
            retry_after_seconds=settings.timeout_seconds,
            deliveries=settings.deliveries,
        )
