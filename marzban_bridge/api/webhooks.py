"""`POST /webhooks/marzban`: the panel's events, each a hint to evaluate its user now.

Marzban 0.8.4 sends a JSON array of events and the header `x-webhook-secret`; it redelivers a batch
that was not answered 2xx with only `tries` and `send_at` changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, HTTPException, Request
from pydantic import BaseModel

from marzban_bridge.api.bodies import read_body
from marzban_bridge.api.context import BridgePart, bridges_of, callers_of
from marzban_bridge.api.errors import DOCUMENTED, OF_BODIES
from marzban_bridge.bridge import Bridge
from marzban_bridge.config.webhook_secrets import Sender, sender_of
from marzban_bridge.panels.names import FIRST_PANEL, account_key
from marzban_bridge.panels.users import PanelEvent, is_same_creation
from marzban_bridge.store.metas import LAST_WEBHOOK

log = logging.getLogger(__name__)

router = APIRouter(tags=["webhooks"])

MAX_BODY_BYTES = 16 * 1024 * 1024
REMEMBER_SECONDS = 24 * 3600
ARRIVAL_STORED_SECONDS = 60
VOLATILE_FIELDS = ("tries", "send_at", "enqueued_at")


class WebhookAnswer(BaseModel):
    """The number of accepted events."""

    events: int
    hints: int


@router.post(
    "/webhooks/marzban",
    responses=DOCUMENTED | OF_BODIES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["username", "action"],
                            "properties": {
                                "username": {"type": "string"},
                                "action": {"type": "string"},
                            },
                        },
                    }
                }
            },
        }
    },
)
async def take_webhook(
    request: Request,
    bridge: BridgePart,
    x_webhook_secret: Annotated[str, Header()] = "",
) -> WebhookAnswer:
    """Accept a batch of events: stored before the answer, and their users queued.

    With a secret that other panels have too, users are queued but no reset is taken from events.
    """
    settings = bridge.panel_settings
    sender = sender_of(
        x_webhook_secret, own=settings.webhook_secret, shared=settings.shared_webhook_secret
    )
    if sender is Sender.UNKNOWN:
        bridge.metrics.webhooks.labels(result="refused").inc()
        raise HTTPException(401, _refusal(settings.name))
    if sender is Sender.ONE_OF_SEVERAL:
        callers_of(request).webhook_warnings.note_shared_secret(settings.name)
    body = await read_body(request, max_bytes=MAX_BODY_BYTES, what="a webhook batch")
    events = _parse(body)
    hints = [
        (_digest(data), event, key, keys)
        for data in events
        if (event := bridge.panel.event_of(data))
        for key in (account_key(event.username),)
        if (keys := bridge.store.name_owners.keys_of_name(key))
    ]
    bridge.store.reset_news.announce(
        [
            (digest, key)
            for digest, event, key, keys in hints
            if sender is Sender.PANEL and key in keys and _tells_of_reset(event, key, bridge)
        ],
        at=bridges_of(request).clock(),
        remember_seconds=REMEMBER_SECONDS,
        happened_at={digest: event.happened_at for digest, event, *_ in hints if event.happened_at},
    )
    check = bridge.reconciler.health.last_check
    for _, event, key, keys in hints:
        is_own = check is not None and event.by == check.admin  # a write of the bridge's
        is_edit = not event.is_reset and not is_own
        if sender is Sender.PANEL and key in keys and event.user and is_edit:
            await bridge.settler.note_overwritten_edit(key, event.user)
    bridge.queue.add(key for *_, keys in hints for key in keys)
    _note_arrival(bridge, at_seconds=bridges_of(request).clock().timestamp())
    return WebhookAnswer(events=len(events), hints=len(hints))


def _note_arrival(bridge: Bridge, *, at_seconds: float) -> None:
    """Count a webhook that was taken; its time is stored, though not more than once a minute."""
    bridge.metrics.webhooks.labels(result="taken").inc()
    bridge.metrics.last_webhook_timestamp_seconds.set(at_seconds)
    key = f"{LAST_WEBHOOK}{bridge.store.panel}"
    if abs(at_seconds - float(bridge.store.meta(key) or 0)) >= ARRIVAL_STORED_SECONDS:
        bridge.store.set_meta(key, str(int(at_seconds)))


def _refusal(panel: str) -> str:
    text = "x-webhook-secret must be the panel's WEBHOOK_SECRET (BRIDGE_WEBHOOK_SECRET here)"
    if panel == FIRST_PANEL:
        return text
    return (
        f"x-webhook-secret must be panel {panel}'s own WEBHOOK_SECRET: `marzban-bridge panels "
        f"webhook {panel}` says which it is"
    )


def _tells_of_reset(event: PanelEvent, key: str, bridge: Bridge) -> bool:
    """Tell whether an event reports a reset of this user, and not of the name on another panel."""
    user = event.user
    if not event.is_reset or user is None or account_key(user.username) != key:
        return False
    account = bridge.store.accounts.get(key)
    gone = bridge.store.gone_accounts.get(key) if account is None else None
    known = gone.account if gone else account
    return bool(known and is_same_creation(known.created_at, user.created_at))


def _parse(body: bytes) -> list[dict[str, Any]]:
    try:
        events = msgspec.json.decode(body, type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(422, f"expected a JSON array of Marzban events: {error}") from error
    for index, event in enumerate(events):
        for field in ("username", "action"):
            value = event.get(field)
            if not isinstance(value, str) or not value.isprintable():
                raise HTTPException(422, f"event {index}: {field} must be a printable string")
    return events


def _digest(event: Mapping[str, Any]) -> bytes:
    """Return a digest of an event that is the same for its redeliveries."""
    lasting = {key: value for key, value in event.items() if key not in VOLATILE_FIELDS}
    return hashlib.blake2b(msgspec.json.encode(lasting, order="sorted"), digest_size=16).digest()
