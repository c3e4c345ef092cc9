"""Why no account of a panel is changed: its suspension, which lasts over restarts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from marzban_bridge.quota.account import Event
from marzban_bridge.quota.suspension import SuspensionReason
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle

PANEL_DOUBTS = "panel_doubts:"
"""Before a panel's name: why none of its accounts is changed."""
ONE_PANEL = "one_panel"
"""The kind of reason about a panel that is another entry's, too; also in the metric."""


class PanelSuspension:
    """Reasons why one panel is suspended; there may be several at once, one of each kind."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._panel = panel
        self._events = Events(handle, panel)

    @property
    def reasons(self) -> tuple[SuspensionReason, ...]:
        """Why no account of the panel is changed now; empty when all is well."""
        stored = self._handle.meta(self._meta_key)
        if stored is None:
            return ()
        return msgspec.json.decode(stored, type=tuple[SuspensionReason, ...])

    @property
    def is_another_entrys_panel(self) -> bool:
        """Whether the panel is another configured entry's, too, and left alone as this one's."""
        return any(each.kind == ONE_PANEL for each in self.reasons)

    @property
    def text(self) -> str | None:
        """The same in words, None when all is well."""
        return "; ".join(each.text for each in self.reasons) or None

    def begin(self, reason: SuspensionReason, *, at: datetime) -> bool:
        """Have no account of the panel changed; return whether that is news of this kind.

        What is known of a kind that is there already is replaced.
        """
        others = [each for each in self.reasons if each.kind != reason.kind]
        is_news = len(others) == len(self.reasons)
        with self._handle.transaction():
            self._set_reasons([*others, reason])
            if is_news:
                self._events.insert("", [Event(kind="doubt", text=reason.text)], at)
        if is_news:
            self._handle.on_change(self._panel, ())
        return is_news

    def end(self, kind: str, text: str, *, actor: str = "bridge", at: datetime) -> bool:
        """Have accounts of the panel changed again, for all of this kind; was it suspended?"""
        others = [each for each in self.reasons if each.kind != kind]
        if len(others) == len(self.reasons):
            return False
        with self._handle.transaction():
            self._set_reasons(others)
            self._events.insert("", [Event(kind="doubt_over", text=text, actor=actor)], at)
        self._handle.on_change(self._panel, ())
        return True

    @property
    def _meta_key(self) -> str:
        return f"{PANEL_DOUBTS}{self._panel}"

    def _set_reasons(self, reasons: Sequence[SuspensionReason]) -> None:
        self._handle.set_meta(self._meta_key, msgspec.json.encode(reasons).decode())
