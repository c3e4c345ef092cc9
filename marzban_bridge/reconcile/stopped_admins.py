"""Admins whose own state may keep their users off a panel's nodes, whatever the users' state is.

A reseller may have a data limit of its own, and may be disabled. That is the panel's to enforce and
the operator's to see: the bridge shows it and changes nothing because of it.
"""

from __future__ import annotations

import logging

from marzban_bridge.errors import PanelError, PanelRefusedError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelAdmin
from marzban_bridge.quota.account import GIB
from marzban_bridge.store.metas import STOPPED_ADMINS
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)


class StoppedAdmins:
    """The stopped admins of one panel, as of its last check."""

    def __init__(self, *, store: Store, panel: Panel, metrics: Metrics) -> None:
        self._store = store
        self._panel = panel
        self._metrics = metrics
        self.warnings: tuple[str, ...] = ()
        """One sentence for each of them."""

    async def check(self, dialect: Dialect) -> None:
        """Ask the panel for its admins, where they can be stopped; log what changed.

        What is known stays where the panel does not answer; that its answer is not permitted is
        said of the bridge's role.
        """
        found: list[PanelAdmin] = []
        if dialect.admins_have_limits:
            try:
                found = [each for each in await self._panel.admins() if each.is_stopped]
            except PanelRefusedError:
                found = []
            except PanelError as error:
                log.warning("the panel's admins cannot be looked at: %s", error)
                return
        self._metrics.stopped_admins.clear()
        for each in found:
            reason = "limited" if each.is_limited else "disabled"
            self._metrics.stopped_admins.labels(admin=each.username, reason=reason).set(1)
        warnings = tuple(map(_text, found))
        for text in warnings:
            if text not in self.warnings:
                log.warning("%s", text)
        self.warnings = warnings
        key, lines = f"{STOPPED_ADMINS}{self._store.panel}", "\n".join(warnings)
        if (self._store.meta(key) or "") != lines:
            self._store.set_meta(key, lines)


def _text(admin: PanelAdmin) -> str:
    why = "is disabled"
    if admin.is_limited:
        why = f"has used up its own data limit ({(admin.limit_bytes or 0) / GIB:.2f} GiB)"
    effect = "the panel lets its users go on"
    if admin.cuts_users_off:
        effect = "the panel keeps its users off the nodes, whatever is left of their quotas"
    return f"the admin {admin.username!r} {why}: {effect}"
