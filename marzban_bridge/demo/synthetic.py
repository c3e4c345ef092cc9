"""Reports made-up traffic for the simulated panel's crowd, as agents on external servers would."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from collector.runtime.daemon_executor import run_loop
from marzban_bridge.errors import SettingsError
from marzban_bridge.simulator.crowd import Member, crowd, usage

log = logging.getLogger(__name__)

KEY_VARIABLE = "SYNTHETIC_REPORTER_KEY"
TICK_SECONDS = 5.0
HISTORY_STEP_SECONDS = 300.0
PAUSE_SECONDS = 2.0
BATCH = 1000
UPLOAD_SHARE = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    add = parser.add_argument
    add("--collector", required=True, metavar="URL", help="where to report to")
    add("--crowd", type=int, default=40, help="as many users as the simulator has (40)")
    add("--speed", type=float, default=1, help="how many days' traffic to use in a day (1)")
    add("--history-hours", type=float, default=0, help="report so many hours of the past first")
    add("--seconds", type=float, default=None, help="stop after so long; default: never")


def run(arguments: argparse.Namespace) -> int:
    """Report until stopped; the key comes from SYNTHETIC_REPORTER_KEY."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise SettingsError(f"{KEY_VARIABLE} must hold a reporter key: reporters add synthetic")
    run_loop(_report_until_stopped(arguments, key))
    return 0


async def _report_until_stopped(arguments: argparse.Namespace, key: str) -> None:
    """Report until SIGINT or SIGTERM; the first process of a container gets no other signal."""
    loop = asyncio.get_running_loop()
    reporting = asyncio.ensure_future(_report(arguments, key))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, reporting.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await reporting


async def _report(arguments: argparse.Namespace, key: str) -> None:
    members = crowd(arguments.crowd)
    dice = random.Random()  # noqa: S311 - amounts of made-up traffic
    loop = asyncio.get_running_loop()
    ends_at = None if arguments.seconds is None else loop.time() + arguments.seconds
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=arguments.collector, headers=headers, timeout=30, trust_env=False
    ) as client:
        past = list(_history(members, hours=arguments.history_hours, dice=dice))
        for start in range(0, len(past), BATCH):
            await _post(client, past[start : start + BATCH])
        log.info("reported %d entries of the past; now the present", len(past))
        while ends_at is None or loop.time() < ends_at:
            seconds = TICK_SECONDS * arguments.speed
            await _post(client, _reports(members, datetime.now(UTC), seconds, dice))
            await asyncio.sleep(TICK_SECONDS)


def _history(
    members: list[Member], *, hours: float, dice: random.Random
) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC)
    steps = int(hours * 3600 / HISTORY_STEP_SECONDS)
    for step in range(steps, 0, -1):
        at = now - timedelta(seconds=step * HISTORY_STEP_SECONDS)
        for each in _reports(members, at, HISTORY_STEP_SECONDS, dice):
            yield each | {"reported_at": at.isoformat()}


def _reports(
    members: list[Member], at: datetime, seconds: float, dice: random.Random
) -> list[dict[str, Any]]:
    return [
        {
            "report_id": secrets.token_hex(8),
            "user_token": member.username,
            "server": server,
            "port": port,
            "protocol": protocol,
            "bytes_uploaded": count_bytes // UPLOAD_SHARE,
            "bytes_downloaded": count_bytes - count_bytes // UPLOAD_SHARE,
            "connections": dice.randint(1, 6),
        }
        for member, (server, port, protocol), count_bytes in usage(
            members, at=at, seconds=seconds, dice=dice
        )
    ]


async def _post(client: httpx.AsyncClient, reports: list[dict[str, Any]]) -> None:
    """Post until acknowledged; the reports carry ids, so sending again counts nothing twice."""
    while reports:
        try:
            answer = await client.post("/v1/reports", json=reports)
        except httpx.HTTPError as error:
            log.warning("the collector does not answer (%s); sending again", type(error).__name__)
        else:
            if answer.is_success:
                return
            if answer.status_code in {401, 422}:
                raise SettingsError(f"the collector refuses: {answer.text[:300]}")
            log.warning("the collector answers %d; sending again", answer.status_code)
        await asyncio.sleep(PAUSE_SECONDS)
