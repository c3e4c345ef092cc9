"""The requests to sources, as values; `fetch` carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from collector.agent.state.counters import Sample

SEPARATOR = b"\0"
"""Between the outputs of several commands."""


@dataclass(frozen=True, slots=True)
class HttpGet:
    """An HTTP GET."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return self.url


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command to run without a shell; its standard output is the answer."""

    words: tuple[str, ...]
    around: tuple[str, ...] = ()
    """A command to run before and again after `words`, if any. The answer is the three outputs with
    SEPARATOR between them; the output of an `around` that fails is empty."""

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return "\x1f".join(self.words)


@dataclass(frozen=True, slots=True)
class GrpcCalls:
    """gRPC calls to make one after the other; the answer is their messages in gRPC's framing."""

    url: str
    service: str
    calls: tuple[tuple[str, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return f"{self.url}/{self.service}"


@dataclass(frozen=True, slots=True)
class ReadStream:
    """A Redis stream to read from the last position; `nodes` maps its nodes to server names."""

    url: str
    stream: str
    username: str | None
    password: str | None = field(repr=False)
    nodes: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for a stored position to be valid."""
        return f"{self.url}\x1f{self.stream}"


SourceRequest = HttpGet | CommandRequest | GrpcCalls | ReadStream
Parse = Callable[[bytes], Sample]
