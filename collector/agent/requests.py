"""How a source is asked: values that say what to do, and do nothing themselves; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from collector.agent.state.counters import Sample


@dataclass(frozen=True, slots=True)
class HttpGet:
    """Get a page."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return self.url


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """Run a command, without a shell, and take what it prints."""

    words: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return "\x1f".join(self.words)


@dataclass(frozen=True, slots=True)
class GrpcCalls:
    """Make calls one after the other; the answer is their messages, framed as gRPC does."""

    url: str
    service: str
    calls: tuple[tuple[str, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return f"{self.url}/{self.service}"


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Read what is new in a Redis stream; `nodes` says what its nodes are called here."""

    url: str
    stream: str
    username: str | None
    password: str | None = field(repr=False)
    nodes: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for the position in it to mean anything."""
        return f"{self.url}\x1f{self.stream}"


SourceRequest = HttpGet | CommandRequest | GrpcCalls | ReadStream
Parse = Callable[[bytes], Sample]
