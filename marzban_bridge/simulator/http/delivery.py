"""Sends the simulated panel's webhooks to their receiver."""

from __future__ import annotations

import logging

import httpx

from marzban_bridge.simulator.panel.panel import SimulatedPanel

log = logging.getLogger(__name__)


async def deliver_webhooks(
    panel: SimulatedPanel, client: httpx.AsyncClient, *, url: str, secret: str | None = None
) -> int:
    """Send the due events as one batch and return how many were accepted.

    Marzban 0.8.4: a JSON array with the secret in `x-webhook-secret`; anything but a status below
    400 counts as not delivered, and the batch is tried again later.
    """
    batch = panel.take_webhooks()
    if not batch:
        return 0
    headers = {"x-webhook-secret": secret} if secret else {}
    try:
        answer = await client.post(url, json=batch, headers=headers)
    except httpx.HTTPError as error:
        log.warning("the webhook receiver %s cannot be reached: %r", url, error)
        panel.webhooks_failed(batch)
        return 0
    if answer.is_error:
        log.warning("the webhook receiver %s answers %s", url, answer.status_code)
        panel.webhooks_failed(batch)
        return 0
    return len(batch)
