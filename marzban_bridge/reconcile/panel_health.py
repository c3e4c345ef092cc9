"""What is known of a panel as a whole: what it is, and whether it answers.

A panel that fails is left alone for a while, longer after each failure; the loops over its users
share what one of them found.
"""

from __future__ import annotations

import logging
import time

from collector.runtime.outage import Outage
from marzban_bridge.errors import PanelError, PanelUnavailableError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.port import Panel
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.stopped_admins import StoppedAdmins
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.store.metas import PANEL_IS
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)


class PanelHealth:
    """The health of one panel."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        twins: TwinPanels,
        metrics: Metrics,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._panel = panel
        self._twins = twins
        self._metrics = metrics
        self._standstill = standstill
        self._resume_at = 0.0
        self._standstills_before_outage = 0
        is_first = store.panel == FIRST_PANEL
        self.outage = Outage(
            "panel" if is_first else f"panel {store.panel}", reason="not reached yet"
        )
        self.last_check: PanelCheck | None = None
        """The bridge's admin, and the panel's version."""
        self.stopped_admins = StoppedAdmins(store=store, panel=panel, metrics=metrics)

    async def check(self) -> PanelCheck:
        """Read the bridge's admin and the panel's version; log what changed since the last check.

        Raises the panel's errors, which say what to do.
        """
        found = await self._panel.check()
        if found != self.last_check:
            log.info("%s: %s", self.outage.name, found)
            for warning in found.warnings:
                log.warning("%s: %s", self.outage.name, warning)
            self._metrics.panel.info({"kind": found.kind.value, "version": found.version or ""})
            key = f"{PANEL_IS}{self._store.panel}"
            if self._store.meta(key) != found.panel:
                self._store.set_meta(key, found.panel)
        self.last_check = found
        await self.stopped_admins.check(found.dialect)
        await self._twins.check(self._store.panel)
        return found

    async def greet(self) -> None:
        """Check the panel before the first user is settled, so that problems are logged at once."""
        try:
            await self.check()
        except PanelError as error:
            self.note_outage(error)
        else:
            self.note_up()

    def note_up(self) -> None:
        """Record that the panel answered."""
        self.outage.recovered()
        self._metrics.panel_up.set(1)
        self._resume_at = 0.0

    def note_outage(self, error: PanelError) -> float:
        """Record an outage; return the seconds until the next try.

        An outage that several loops run into is recorded once.
        """
        if pause_seconds := self.seconds_until_retry():
            return pause_seconds
        self._metrics.soft_errors.labels(source="panel").inc()
        self._metrics.panel_up.set(0)
        asked_seconds = None
        if isinstance(error, PanelUnavailableError):
            asked_seconds = error.retry_after_seconds
        pause_seconds = self.outage.failed(str(error), asked_seconds=asked_seconds)
        self._resume_at = time.monotonic() + pause_seconds
        self._standstills_before_outage = self._standstill.times
        return pause_seconds

    def seconds_until_retry(self) -> float:
        """Return how long the panel is left alone; a rebase or a release ends that."""
        if self._standstill.times != self._standstills_before_outage:
            return 0.0
        return max(0.0, self._resume_at - time.monotonic())
