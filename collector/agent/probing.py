"""Checks whether the collector accepts the keys, by requests without a report."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import UTC, datetime

from collector.agent.config.settings import Config
from collector.client.answers import Taken
from collector.client.async_wire import AsyncWire
from collector.client.sending.delivery import Answer, Call, NoAnswer, Post, Reports

TIMEOUT_SECONDS = 10.0

_Probe = Generator[Post | Call, Answer | NoAnswer, str | None]


async def probe(config: Config) -> dict[str, str | None]:
    """Return for each key (by where it is configured) why it is refused; None if it is accepted."""
    wire = AsyncWire(config.collector_url, timeout_seconds=TIMEOUT_SECONDS)
    try:
        return {
            whose: await wire.drive(_ask(key, now=datetime.now(tz=UTC)))
            for key, whose in _keys(config).items()
        }
    finally:
        await wire.close()


def _keys(config: Config) -> Mapping[str, str]:
    """Return each key once, with where it is configured."""
    keys = {config.key: "key"}
    for route in config.relay.routes if config.relay else ():
        keys.setdefault(route.key, f"key of relay route {route.name}")
    return keys


def _ask(key: str, *, now: datetime) -> _Probe:
    parcel = Reports(key=key, subscription=None)
    answer = yield parcel.pack([])
    if isinstance(answer, NoAnswer):
        return answer.reason
    verdict = parcel.judge(answer, count=0, now=now)
    return None if isinstance(verdict, Taken) else verdict.reason
