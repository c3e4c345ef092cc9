"""Sends the simulated panel's webhooks to their receivers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import httpx

from marzban_bridge.simulator.http.webhooks import Event
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver

log = logging.getLogger(__name__)


async def deliver_webhooks(panel: SimulatedPanel, client: httpx.AsyncClient) -> int:
    """Send the due events to every receiver and return how many were accepted.

    A batch is a JSON array, with the receiver's secret in `x-webhook-secret`; one that no receiver
    takes is tried again later.
    """
    receivers = panel.webhook_settings.receivers
    batches = []
    while receivers and (batch := panel.take_webhooks()):
        batches.append(batch)
    accepted = 0
    for batch in batches:
        taken = [await _send(panel, client, batch, receiver) for receiver in receivers]
        if any(taken):
            accepted += len(batch)
        else:
            panel.webhooks_failed(batch)
    return accepted


async def _send(
    panel: SimulatedPanel,
    client: httpx.AsyncClient,
    batch: Sequence[Event],
    receiver: WebhookReceiver,
) -> bool:
    headers = {"x-webhook-secret": receiver.secret} if receiver.secret else {}
    try:
        answer = await client.post(receiver.url, json=batch, headers=headers)
    except httpx.HTTPError as error:
        log.warning("the webhook receiver %s cannot be reached: %r", receiver.url, error)
        return False
    delivered = panel.dialect.delivered
    if answer.is_error if delivered is None else answer.status_code not in delivered:
        log.warning("the webhook receiver %s answers %s", receiver.url, answer.status_code)
        return False
    return True
