"""The sources file on disk: read at the start, and again when it changes.

A mistake in the file at the start is an error. After a later change, a mistake is logged once and
the previous configuration stays in use.
"""

from __future__ import annotations

import logging
from pathlib import Path

from collector.runtime.config import ConfigError
from collector.runtime.config.files import read_config_file
from collector.runtime.rate_limit import RateLimit
from collector.sources.config import EMPTY, SourcesConfig, read_sources

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
NOTE_SECONDS = 60.0
SETTING = "COLLECTOR_SOURCES_FILE"

_Stamp = tuple[int, int, int]


def load_sources(path: Path | None) -> SourcesConfig:
    """Load a sources file; ConfigError names it and the mistake."""
    return EMPTY if path is None else read_config_file(path, read_sources, setting=SETTING)


class Sources:
    """The present configuration of the sources file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = _stamp_of(path)
        self._config = load_sources(path)
        self._next_poll_seconds = 0.0
        self.notes = RateLimit(per_second=1 / NOTE_SECONDS, burst=1)
        """Bounds how often a reporter's refusals are logged: panels repeat them all day."""
        self.problem: str | None = None
        """Why the present file is not used; None if it is."""

    def config(self, *, now_seconds: float) -> SourcesConfig:
        """Return the configuration, at most a second old."""
        if self._path is not None and now_seconds >= self._next_poll_seconds:
            self._next_poll_seconds = now_seconds + POLL_SECONDS
            stamp = _stamp_of(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._read_again(self._path)
        return self._config

    def _read_again(self, path: Path) -> None:
        try:
            self._config = load_sources(path)
        except ConfigError as error:
            self.problem = f"{error}; the previous configuration stays in use"
            log.error("%s", self.problem)  # noqa: TRY400 - the message says it all
        else:
            self.problem = None
            log.info("sources were loaded again from %s", path)


def _stamp_of(path: Path | None) -> _Stamp | None:
    """Return the file's size and times, which change with its content; None if there is no file."""
    try:
        state = path.stat() if path else None
    except OSError:
        return None
    return (state.st_mtime_ns, state.st_size, state.st_ino) if state else None
