"""Everything an agent does at once: reading, sending, and telling how it stands."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, write_to_textfile

from collector.agent.agent import Agent
from collector.agent.errors import AgentError
from collector.agent.metrics import AgentMetrics

log = logging.getLogger(__name__)

METRICS_FILE_SECONDS = 15.0


async def serve(agent: Agent) -> None:
    """Run until cancelled; AgentError for an address that cannot be listened on."""
    metrics = AgentMetrics(
        agent.state,
        sent=lambda: {name: each.sent for name, each in agent.senders.items()},
        now=lambda: datetime.now(tz=UTC),
    )
    registry = metrics.registry()
    relay = None
    if agent.config.relay is not None:
        # An agent that listens nowhere needs no web server in its memory.
        from collector.agent.listening import listen  # noqa: PLC0415
        from collector.agent.relay import RelayApp  # noqa: PLC0415

        app = RelayApp(agent.config.relay.routes, agent.spool)
        app.wakes = {name: each.wake for name, each in agent.senders.items()}
        metrics.posts = lambda: app.posts
        relay = listen(app, agent.config.relay.listen)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run())
            if relay is not None:
                tasks.create_task(relay)
            if agent.config.metrics_file is not None:
                tasks.create_task(_write_metrics(registry, agent.config.metrics_file))
            if agent.config.metrics_listen is not None:
                from collector.agent.listening import listen, metrics_app  # noqa: PLC0415

                tasks.create_task(listen(metrics_app(registry), agent.config.metrics_listen))
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
