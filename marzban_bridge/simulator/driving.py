"""What a test in another process does to a simulated panel, beside the panel's own paths.

Traffic on the panel's node, the hourly job, and what befalls the database. These routes ask for no
token and are there with `--driven` alone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from marzban_bridge.simulator.panel.database import PanelDatabase
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import WrongKindError, restore_snapshot, to_snapshot

router = APIRouter(prefix="/simulation", tags=["simulation"])


async def _panel(request: Request) -> SimulatedPanel:
    panel: SimulatedPanel = request.app.state.panel
    return panel


Panel = Annotated[SimulatedPanel, Depends(_panel)]


class Traffic(BaseModel):
    """What a user uses on the panel's node."""

    username: str
    bytes: int


class Used(BaseModel):
    """Whether the node let the user through, so that all of it was counted."""

    used: bool


class Ahead(BaseModel):
    """By how many days the panel's clock is put forward for one run of the hourly job."""

    days: int


@router.post("/traffic")
async def use_traffic(traffic: Traffic, panel: Panel) -> Used:
    """Have a user use traffic; 404 for no such user."""
    return Used(used=panel.use_traffic(traffic.username, traffic.bytes))


@router.post("/periodic-resets")
async def reset_periodic(ahead: Ahead, panel: Panel) -> dict[str, str]:
    """Run the hourly job as if so many days had passed on the panel."""
    clock = panel.clock
    panel.clock = lambda: clock() + timedelta(days=ahead.days)
    try:
        death = panel.reset_periodic()
    finally:
        panel.clock = clock
    return {"died": str(death or "")}


@router.get("/database")
async def dump(panel: Panel) -> dict[str, Any]:
    """Return a copy of the database."""
    return to_snapshot(panel)


@router.put("/database")
async def restore(snapshot: dict[str, Any], panel: Panel) -> dict[str, int]:
    """Put a copy in the database's place; 409 for another kind's."""
    try:
        restore_snapshot(panel, snapshot)
    except WrongKindError as error:
        raise RefusedError(409, str(error)) from error
    return {"users": len(panel.users)}


@router.post("/database/cut-seconds")
async def cut_seconds(panel: Panel) -> dict[str, int]:
    """Drop the fractions of a second of every `created_at`, as a move to MariaDB does."""
    PanelDatabase(panel).cut_seconds()
    return {"users": len(panel.users)}
