"""The panel's users that the bridge cannot read or ask for: left as they are, each told once."""

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
    """Those of one panel; remembered over restarts, so that each is told once."""

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
        """Set users aside of those that were asked for, and take up who can be read again.

        Who is neither is a user no more.
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
            text = f"the panel's user is set aside and left as it is: {reason}"
            log.error("set_aside user=%r %s", self._store.placement.public_name(key), reason)
            self._store.events.record(key, Event(kind="set_aside", text=text), at=at)
        for key in over:
            del self._reasons[key]
            if key not in readable:
                continue
            text = "the panel's user can be read again and is taken up"
            log.warning("taken_up user=%r", self._store.placement.public_name(key))
            self._store.events.record(key, Event(kind="taken_up", text=text), at=at)
        self._store.set_meta(self._place, msgspec.json.encode(self._reasons).decode())
        self._metrics.set_aside.set(len(self._reasons))

    @property
    def warning(self) -> str | None:
        """Say who is set aside and why; None when nobody is."""
        if not self._reasons:
            return None
        shown = [f"{key!r} ({self._reasons[key]})" for key in sorted(self._reasons)[:SHOWN_USERS]]
        more = len(self._reasons) - len(shown)
        also = f" and {more} more" if more else ""
        return (
            f"{len(self._reasons)} users cannot be read and are left as they are: "
            f"{', '.join(shown)}{also}"
        )
