"""How a source is asked: values that say what to do, and do nothing themselves; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from collector.agent.counters import Reading


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
class Run:
    """Run a command, without a shell, and take what it prints."""

    words: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """What must stay the same for counters to be comparable."""
        return "\x1f".join(self.words)


Ask = HttpGet | Run
Parse = Callable[[bytes], Reading]
