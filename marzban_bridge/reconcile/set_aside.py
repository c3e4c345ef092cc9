"""Users whose data in the panel cannot be parsed or requested: not changed, each logged once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import msgspec

from marzban_bridge.metrics import Metrics
from marzban_bridge.quota.account import Event
from marzban_bridge.reconcile.panel_store import PanelStore

log = logging.getLogger(__name__)

SHOWN_USERS = 3
MAX_REASON_LENGTH = 200


class SetAside:
    """The set-aside users of one panel; stored, so that each is logged once across restarts."""

    def __init__(self, *, store: PanelStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._place = f"set_aside:{store.panel}"
        text = store.meta(self._place)
        self._reasons: dict[str, str] = (
            {} if text is None else msgspec.json.decode(text, type=dict[str, str])
        )
        self._metrics.set_aside.set(len(self._reasons))

    def __contains__(self, key: str) -> bool:
        """Tell whether a user is set aside."""
        return key in self._reasons

    def update(
        self,
        aside: Mapping[str, str],
        *,
        asked: Iterable[str],
        readable: Collection[str],
        at: datetime,
    ) -> None:
        """Set users aside, and take up those that can be parsed again.

        A requested user that is in neither `aside` nor `readable` was deleted in the panel.
        """
        asked = list(asked)
        news = {
            key: aside[key][:MAX_REASON_LENGTH]
            for key in asked
            if key in aside and key not in self._reasons
        }
        over = [key for key in asked if key in self._reasons and key not in aside]
        if not news and not over:
            return
        for key, reason in news.items():
            self._reasons[key] = reason
            text = f"the panel's user is set aside and not changed: {reason}"
            log.error("set_aside user=%r %s", self._store.placement.public_name(key), reason)
            self._store.events.record(key, Event(kind="set_aside", text=text), at=at)
        for key in over:
            del self._reasons[key]
            if key not in readable:
                continue
            text = "the panel's user can be read again and is settled again"
            log.warning("taken_up user=%r", self._store.placement.public_name(key))
            self._store.events.record(key, Event(kind="taken_up", text=text), at=at)
        self._store.set_meta(self._place, msgspec.json.encode(self._reasons).decode())
        self._metrics.set_aside.set(len(self._reasons))

    @property
    def warning(self) -> str | None:
        """Return a text with the users that are set aside and why; None if there are none."""
        if not self._reasons:
            return None
        shown = [f"{key!r} ({self._reasons[key]})" for key in sorted(self._reasons)[:SHOWN_USERS]]
        more = len(self._reasons) - len(shown)
        also = f" and {more} more" if more else ""
        return (
            f"{len(self._reasons)} users cannot be read and are not changed: "
            f"{', '.join(shown)}{also}"
        )
