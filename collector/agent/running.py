"""Runs an agent with its listeners: sources, senders, relay, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, write_to_textfile

from collector.agent.agent import Agent
from collector.agent.config.settings import Config
from collector.agent.errors import AgentError
from collector.agent.metrics import AgentMetrics
from collector.runtime.listening import listen

log = logging.getLogger(__name__)

METRICS_FILE_SECONDS = 15.0


class Listeners(NamedTuple):
    """The sockets that an agent serves on; None for those not configured."""

    relay: socket.socket | None
    metrics: socket.socket | None


@contextlib.contextmanager
def listening(config: Config) -> Iterator[Listeners]:
    """Open the configured listening sockets; ListenError when an address is taken."""
    relay, metrics = config.relay and config.relay.listen, config.metrics_listen
    with contextlib.ExitStack() as stack:
        yield Listeners(
            relay=stack.enter_context(listen(*relay)) if relay else None,
            metrics=stack.enter_context(listen(*metrics)) if metrics else None,
        )


async def serve(agent: Agent, listeners: Listeners) -> None:
    """Run until cancelled."""
    metrics = AgentMetrics(
        agent.state,
        sent=lambda: {name: each.sent for name, each in agent.senders.items()},
        failing=lambda: [name for name, each in agent.senders.items() if each.problem],
        now=lambda: datetime.now(tz=UTC),
    )
    registry = metrics.registry()
    relay = None
    if agent.config.relay is not None and listeners.relay is not None:
        # Imported only if needed: an agent without listeners saves the memory of a web server.
        from collector.agent.relay.listening import serve_on  # noqa: PLC0415
        from collector.agent.relay.relay import RelayApp  # noqa: PLC0415

        app = RelayApp(agent.config.relay.routes, agent.spool)
        agent.relay_problem = lambda: app.problem
        agent.relay_refusals = lambda: app.wrong_secrets.problem(datetime.now(tz=UTC))
        app.wakes = {name: each.wake for name, each in agent.senders.items()}
        metrics.posts = lambda: app.posts
        relay = serve_on(app, listeners.relay)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run())
            if relay is not None:
                tasks.create_task(relay)
            if agent.config.metrics_file is not None:
                tasks.create_task(_write_metrics(registry, agent.config.metrics_file))
            if listeners.metrics is not None:
                from collector.agent.relay.listening import metrics_app, serve_on  # noqa: PLC0415

                tasks.create_task(serve_on(metrics_app(registry), listeners.metrics))
    except ExceptionGroup as group:
        expected = group.subgroup(AgentError)
        if expected is None:
            raise
        raise _first(expected) from None


def _first(group: ExceptionGroup[AgentError]) -> AgentError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def _write_metrics(registry: CollectorRegistry, path: str) -> None:
    problem = ""
    while True:
        try:
            await asyncio.to_thread(write_to_textfile, path, registry)
            problem = ""
        except OSError as error:
            if problem != str(error):
                problem = str(error)
                log.warning("metrics_file_fails: %s", problem)
        await asyncio.sleep(METRICS_FILE_SECONDS)
