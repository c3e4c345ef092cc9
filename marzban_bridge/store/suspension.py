"""Suspensions of panels: stored reasons why no account of a panel is changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from marzban_bridge.quota.account import Event
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle

PANEL_SUSPENSIONS = "panel_doubts:"
"""Prefix of a panel's name: the reasons of its suspension."""
ONE_PANEL = "one_panel"
"""The kind of reason about a panel that is another entry's, too; also in the metric."""


class PanelSuspension:
    """The reasons why one panel is suspended; at most one of each kind."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._panel = panel
        self._events = Events(handle, panel)

    @property
    def reasons(self) -> tuple[SuspensionReason, ...]:
        """The reasons; empty if the panel is not suspended."""
        stored = self._handle.meta(self._meta_key)
        if stored is None:
            return ()
        return msgspec.json.decode(stored, type=tuple[SuspensionReason, ...])

    @property
    def is_another_entrys_panel(self) -> bool:
        """Whether the panel is suspended because another configured entry is the same panel."""
        return any(each.kind == ONE_PANEL for each in self.reasons)

    @property
    def text(self) -> str | None:
        """The reasons as one text; None if the panel is not suspended."""
        return "; ".join(each.text for each in self.reasons) or None

    def begin(self, reason: SuspensionReason, *, at: datetime) -> bool:
        """Add or replace the reason of a kind; return whether the kind is new."""
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
        """Remove the reason of a kind; return whether there was one."""
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
        return f"{PANEL_SUSPENSIONS}{self._panel}"

    def _set_reasons(self, reasons: Sequence[SuspensionReason]) -> None:
        self._handle.set_meta(self._meta_key, msgspec.json.encode(reasons).decode())
