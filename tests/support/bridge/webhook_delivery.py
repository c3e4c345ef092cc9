"""Carries the simulated panel's webhooks to the bridge through its real route."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

from marzban_bridge.api import webhooks
from marzban_bridge.api.access.callers import Callers
from marzban_bridge.api.errors import install_error_handlers
from tests.support.bridge.in_process import InProcess


def deliver(world: Any, batch: list[dict[str, Any]], *, secret: str = "a-webhook-secret") -> None:
    """Post one batch to the world's bridge and let it act on the hints."""
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(webhooks.router)
    app.state.bridges, app.state.callers = world.bridges, Callers()
    app.state.settings = world.settings

    async def post() -> None:
        transport = InProcess(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
            answer = await client.post(
                "/webhooks/marzban", json=batch, headers={"x-webhook-secret": secret}
            )
            assert answer.status_code == 200, answer.text

    if batch:
        world.run(post())
