"""Reads the configuration from its file."""

from __future__ import annotations

import stat
from importlib.util import find_spec
from pathlib import Path

from collector.agent.config import settings as config
from collector.agent.config.settings import Config, Source
from collector.agent.sources.kinds import EXTRAS, KINDS
from collector.runtime.config import ConfigError
from collector.runtime.config.files import read_config_file

DEFAULT_PATH = Path("/etc/traffic-agent/config.toml")


def load(path: Path) -> Config:
    """Load the configuration; relative paths in it are relative to its folder.

    ConfigError names the file, the table and the key.
    """

    def read_file(name: str) -> str:
        return (path.parent / name).read_text(encoding="utf-8-sig")

    def parse(text: str) -> Config:
        found = config.parse(text, read_file=read_file)
        for source in found.sources:
            _check_extra(source)
        return found

    if not path.exists():
        raise ConfigError(f"{path}: there is no such file; name another one with --config FILE")
    return read_config_file(path, parse)


def _check_extra(source: Source) -> None:
    extra = KINDS[source.kind].extra
    if extra is not None and find_spec(EXTRAS[extra]) is None:
        raise ConfigError(
            f'source "{source.name}" kind: {source.kind} needs the extra "{extra}": '
            f"pip install 'marzban-external-traffic[{extra}]'"
        )


def is_readable_by_others(path: Path) -> bool:
    """Tell whether other users of this machine can read the file, which has the reporter key."""
    return bool(path.stat().st_mode & stat.S_IROTH)
