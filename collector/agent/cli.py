"""`traffic-agent`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from collector import __version__
from collector.agent import views
from collector.agent.agent import Agent
from collector.agent.config.file import DEFAULT_PATH, is_readable_by_others, load
from collector.agent.config.settings import Config, Source
from collector.agent.errors import AgentError, SourceError
from collector.agent.fetch import local_http, read
from collector.agent.polling import Gain, gain
from collector.agent.probing import probe
from collector.agent.requests import ReadStream
from collector.agent.running import Listeners, listening, serve
from collector.agent.sources.kinds import KINDS
from collector.agent.state.lock import ONCE, StateLock, heartbeat_of, lock
from collector.agent.state.relay_posts import route_statuses
from collector.agent.state.state import State
from collector.agent.status import agent_status
from collector.agent.stream.follow import peek
from collector.client.errors import ClientError
from collector.client.spool.spool import Spool
from collector.runtime.cli import (
    add_completion,
    add_json,
    commands_of,
    completion_of,
    print_json,
    program,
    run_command,
)
from collector.runtime.config import ConfigError
from collector.runtime.daemon_executor import run_loop

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is printed on one line.

    Exit codes: 0 success, 1 an error, 2 a mistake in the configuration.
    """
    arguments = _parser().parse_args(argv)
    if (code := completion_of(arguments)) is not None:
        return code
    run: Callable[[argparse.Namespace, Config], int] = arguments.run
    return run_command(
        lambda: run(arguments, load(arguments.config)),
        errors=(AgentError, ClientError, ConfigError),
        code_of=lambda error: 2 if isinstance(error, ConfigError) else 1,
    )


def _parser() -> argparse.ArgumentParser:
    parser = program(
        "traffic-agent",
        description="Reads a VPN server's traffic counters and reports the traffic to a collector.",
        version=__version__,
        examples=(
            "check             whether the configuration is valid",
            "run --dry-run     what would be sent, and whether the key is valid",
            "status            what is wrong (exit code 1 if anything is)",
            "status --json     the same, for scripts",
        ),
    )
    _add_config(parser, default=DEFAULT_PATH)
    commands = commands_of(parser)
    run = commands.add_parser("run", help="poll and report until stopped")
    run.add_argument("--once", action="store_true", help="poll and report once, then exit")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be sent, and whether the key is valid; change nothing",
    )
    run.add_argument(
        "--give-up-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="with --once: how long to try to send (default: 30); the rest stays queued",
    )
    run.set_defaults(run=_run)
    check = commands.add_parser("check", help="check the configuration file")
    check.set_defaults(run=_check)
    status = commands.add_parser("status", help="show the backlog and the status of each source")
    add_json(status)
    status.set_defaults(run=_status)
    dead = commands.add_parser(
        "dead-letters", help="list the reports that the collector refused, and why"
    )
    add_json(dead)
    then = dead.add_mutually_exclusive_group()
    then.add_argument("--requeue", action="store_true", help="queue all of them again")
    then.add_argument("--discard", action="store_true", help="delete all of them")
    dead.set_defaults(run=_dead_letters)
    for command in (run, check, status, dead):
        _add_config(command, default=argparse.SUPPRESS)  # keeps the value of one before the command
    add_completion(commands, parser)
    return parser


def _add_config(parser: argparse.ArgumentParser, *, default: Path | str) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        metavar="FILE",
        help=f"the configuration file (default: {DEFAULT_PATH})",
    )


def _run(arguments: argparse.Namespace, config: Config) -> int:
    if arguments.dry_run:
        path = Path(config.state)
        with tempfile.TemporaryDirectory() as folder:
            return run_loop(_dry_run(config, path if path.exists() else Path(folder) / "state"))
    if is_readable_by_others(arguments.config):
        log.warning("config_is_readable_by_others file=%s: run chmod 640 on it", arguments.config)
    if arguments.once:
        with lock(Path(config.state), purpose=ONCE):
            return run_loop(_once(config, arguments.give_up_seconds))
    with listening(config) as listeners, lock(Path(config.state)) as state_lock:
        return run_loop(_until_told(config, listeners, state_lock))


async def _dry_run(config: Config, path: Path) -> int:
    state = State(Spool(path))
    polled: list[tuple[Source, Gain | str]] = []
    async with local_http() as http:
        for source in config.sources:
            try:
                if isinstance(source.request, ReadStream):
                    brought = await peek(source, source.request, state)
                else:
                    brought = gain(source, state, await read(source, http))
                polled.append((source, brought))
            except SourceError as error:
                polled.append((source, f"cannot be read: {error}"))
    state.spool.close()
    problems = await probe(config)
    views.show_gains(Console(), polled, problems)
    is_unread = any(isinstance(brought, str) for _, brought in polled)
    return int(is_unread or any(problems.values()))


async def _once(config: Config, give_up_seconds: float) -> int:
    agent = Agent(config)
    try:
        is_done = await agent.once(give_up_seconds=give_up_seconds)
        left = agent.spool.backlog()
    finally:
        await agent.close()
    print(f"{left.items} items are queued and not sent yet", file=sys.stderr)
    return 0 if is_done else 1


async def _until_told(config: Config, listeners: Listeners, state_lock: StateLock) -> int:
    running = asyncio.current_task()
    assert running is not None  # noqa: S101 - we are in one
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def stop() -> None:
        if not told.is_set():  # a second signal would cancel what closes the state
            told.set()
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    agent = Agent(config, state_lock)
    log.info(
        "agent_starts sources=%d collector=%s state=%s waiting=%d",
        len(config.sources),
        config.collector_url,
        config.state,
        agent.spool.backlog().items,
    )
    try:
        await serve(agent, listeners)
    except asyncio.CancelledError:
        if not told.is_set():
            raise
        log.info("agent_ends waiting=%d", agent.spool.backlog().items)
    finally:
        await agent.close()
    return 0


def _check(_: argparse.Namespace, config: Config) -> int:
    for each in config.sources:
        print(f"source {each.name}: {each.kind}, every {each.interval_seconds:g} s")
    for route in config.relay.routes if config.relay else ():
        print(f"relay route {route.name}: post to /{route.kind}/<its secret>")
    print(f"collector {config.collector_url}, state {config.state}")
    print("The configuration is valid. `run --dry-run` polls the sources and asks the collector.")
    return 0


def _state_of(config: Config) -> State:
    path = Path(config.state)
    if not path.exists():
        raise AgentError(f"there is no state file at {path}: has the agent run yet?")
    return State(Spool(path, max_bytes=config.max_spool_bytes))


def _status(arguments: argparse.Namespace, config: Config) -> int:
    state = _state_of(config)
    now = datetime.now(tz=UTC)
    routes = config.relay.routes if config.relay else ()
    found = agent_status(
        heartbeat_of(Path(config.state)),
        lanes=state.delivery_problems(),
        statuses=state.statuses(),
        now=now,
        routes=route_statuses(state.spool, [each.name for each in routes]),
    )
    if_empty = {each.name: KINDS[each.kind].if_empty for each in config.sources}
    backlog = state.spool.backlog()
    if arguments.json:
        print_json(views.status_object(found, backlog))
    else:
        views.show_status(Console(), found, backlog=backlog, now=now, if_empty=if_empty)
    state.spool.close()
    return int(found.is_wrong)


def _dead_letters(arguments: argparse.Namespace, config: Config) -> int:
    state = _state_of(config)
    if arguments.requeue:
        print(f"{state.spool.requeue_dead_letters()} dead letters are queued again.")
    elif arguments.discard:
        print(f"{state.spool.discard_dead_letters()} dead letters were deleted.")
    elif arguments.json:
        print_json([views.letter_object(each) for each in state.spool.dead_letters()])
    else:
        views.show_dead_letters(Console(), state.spool.dead_letters())
    state.spool.close()
    return 0
