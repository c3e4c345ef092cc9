"""Detects another bridge with its own store on the same panel, and announces this one to it.

Each bridge would take the other's limits for an admin's edits. A line of another store in a user's
note suspends the panel: none of its users is changed. Meanwhile this bridge renews a line of its
own in the same note, which publishes no limit, so that the other bridge stops too. A bridge that
renews no line for GONE_SECONDS is treated as gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.quota.writes.note_line import Lines, NoteLine
from marzban_bridge.reconcile.panel_store import PanelStore
from marzban_bridge.store.metas import OTHER_BRIDGE

log = logging.getLogger(__name__)

SECOND_BRIDGE = "second_bridge"
"""The reason for this suspension, as stored and in the metric."""
GONE_SECONDS = 600.0
RENEW_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherBridge:
    """The other bridge; stored beside the suspension."""

    store: str
    place: str
    username: str
    """The user in whose note its line was first found; this bridge's line goes there too."""
    renewed_at: datetime
    """When a new line of it was last found."""


class SecondBridge:
    """Watches the notes of one panel's users for lines of other stores.

    `write_line` writes a line of this store, and nothing else, into the note of a user; it returns
    whether there is room for one.
    """

    def __init__(
        self,
        *,
        store: PanelStore,
        lines_of: Callable[[PanelUser], Lines],
        write_line: Callable[[Account | None, str], Awaitable[bool]],
        clock: Callable[[], datetime],
        metrics: Metrics,
        only_observes: bool = False,
    ) -> None:
        self._store = store
        self._lines_of = lines_of
        self._write_line = write_line
        self._clock = clock
        self._metrics = metrics
        self._only_observes = only_observes
        self._seen: dict[str, tuple[str, ...]] = {}
        """Lines of other stores in the notes of users without an account, by key."""
        self._left_alone: set[str] = set()
        self._renewed_own_at: datetime | None = None
        self._note_metric()

    @property
    def is_there(self) -> bool:
        """Whether the panel is suspended because of another bridge."""
        return any(each.kind == SECOND_BRIDGE for each in self._store.suspension.reasons)

    def reason(self, key: str, user: PanelUser) -> str | None:
        """Return why a user's note suspends the panel, or forbids changing the user; else None."""
        others = self._lines_of(user).others
        if news := self._news(key, others):
            return self._text(news[-1].store, news[-1].place, user.username)
        if others and not self._store.accounts.has(key):
            return _left_alone_text(others[-1], user.username)
        return None

    def notice(self, key: str, user: PanelUser) -> bool:
        """Record the lines of other stores in a user's note; return whether to leave it unchanged.

        A new line suspends the panel. Lines left by a bridge that is gone prevent adopting the
        user: the quota is in the line, and the limit in the panel is only what was left of it.
        """
        others = self._lines_of(user).others
        news = self._news(key, others)
        self._remember(key, others)
        if news:
            self._begin(user, news[-1])
        if not others or self._store.accounts.has(key):
            return bool(news)
        if key not in self._left_alone and not self.is_there:
            self._left_alone.add(key)
            text = _left_alone_text(others[-1], user.username)
            log.warning("%s", text)
            event = Event(kind="conflict", text=text)
            self._store.events.record(user.username, event, at=self._clock())
        return True

    async def evaluate_again(self, users: Mapping[str, PanelUser]) -> bool:
        """Compare the notes of all users of the panel, as just read, with the known lines.

        Renews this bridge's line, unless it only observes. Ends the suspension when the other
        bridge is gone and at least one of the users with its lines has an account here; returns
        whether the suspension stays. Raises the panel's errors.
        """
        lined = {key: user for key, user in users.items() if self._lines_of(user).others}
        for key, user in lined.items():
            self.notice(key, user)
        if not self.is_there:
            return False
        await self._make_noticed(lined)
        other, now = self._other, self._clock()
        if other is None or now - other.renewed_at < timedelta(seconds=GONE_SECONDS):
            return True
        if lined and not any(self._store.accounts.has(key) for key in lined):
            if self._only_observes:  # the other one saw no line of this one, and renews none
                return True
            text = (
                f"panel {self._store.panel}: the bridge on {other.place} (store {other.store}) is "
                "gone, and only its lines in users' notes have the quotas. No user is changed "
                "until `marzban-bridge rebuild`, which reads the quotas from these lines"
            )
            self._suspend(text, since=other.renewed_at)
            return True
        self.end(f"the bridge on {other.place} does not renew its lines any more")
        return False

    def end(self, text: str, *, actor: str = "bridge") -> None:
        """Remove this reason for the suspension."""
        if self._store.suspension.end(SECOND_BRIDGE, text, actor=actor, at=self._clock()):
            log.warning("panel %s is written to again: %s", self._store.panel, text)
            self._note_metric()

    def _news(self, key: str, others: Sequence[NoteLine]) -> list[NoteLine]:
        if not others:
            return []
        account = self._store.accounts.get(key)
        known = account.known_lines if account else self._seen.get(key, ())
        return [line for line in others if line.name not in known]

    def _remember(self, key: str, others: Sequence[NoteLine]) -> None:
        names = tuple(line.name for line in others)
        account = self._store.accounts.get(key)
        if account is None:
            if names:
                self._seen[key] = names
        elif account.known_lines != names:
            self._store.accounts.save(replace(account, known_lines=names), at=self._clock())

    def _begin(self, user: PanelUser, line: NoteLine) -> None:
        now = self._clock()
        known = self._other if self.is_there else None
        is_same = known is not None and known.store == line.store
        username = known.username if known and is_same else user.username
        other = OtherBridge(store=line.store, place=line.place, username=username, renewed_at=now)
        self._store.set_meta(self._meta, msgspec.json.encode(other).decode())
        self._suspend(self._text(line.store, line.place, username), since=now)

    def _suspend(self, text: str, *, since: datetime) -> None:
        known = [each for each in self._store.suspension.reasons if each.kind == SECOND_BRIDGE]
        reason = SuspensionReason(
            kind=SECOND_BRIDGE, text=text, since=known[0].since if known else since
        )
        if self._store.suspension.begin(reason, at=self._clock()):
            log.error("%s", text)
        self._note_metric()

    async def _make_noticed(self, lined: Mapping[str, PanelUser]) -> None:
        """Renew this bridge's line in the note with the other's, or in the next one with room."""
        if self._only_observes:
            return
        other, now = self._other, self._clock()
        last_at = self._renewed_own_at
        if other is None or (last_at and now - last_at < timedelta(seconds=RENEW_SECONDS)):
            return
        for key in sorted(lined, key=lambda key: lined[key].username != other.username):
            if await self._write_line(self._store.accounts.get(key), lined[key].username):
                self._renewed_own_at = now
                return

    def _text(self, store: str, place: str, username: str) -> str:
        found = (
            f"panel {self._store.panel}: another bridge, on {place or 'an unknown host'} (store "
            f"{store}), writes to the same users; its line is in the note of {username}. "
        )
        if self._only_observes:
            return found + (
                "This one only observes (BRIDGE_ENFORCEMENT=observe) and writes no line, so the "
                "other one continues; these users' data is not updated here, since the limits in "
                "the panel are not the admin's"
            )
        return found + (
            "Neither changes any user until one of them is gone: stop one of them, and the other "
            f"one continues {GONE_SECONDS / 60:.0f} minutes later"
        )

    def _note_metric(self) -> None:
        self._metrics.panel_suspended.labels(reason=SECOND_BRIDGE).set(int(self.is_there))

    @property
    def _meta(self) -> str:
        return f"{OTHER_BRIDGE}{self._store.panel}"

    @property
    def _other(self) -> OtherBridge | None:
        stored = self._store.meta(self._meta)
        return None if stored is None else msgspec.json.decode(stored, type=OtherBridge)


def _left_alone_text(line: NoteLine, username: str) -> str:
    return (
        f"the limit of {username} was published by a bridge on {line.place or 'an unknown host'} "
        f"(store {line.store}), and this one has no account of the user: it is not changed until "
        "`marzban-bridge rebuild`, which takes the quota from the line in its note"
    )
