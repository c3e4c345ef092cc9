"""Reading the configuration from its file."""

from __future__ import annotations

import stat
from pathlib import Path

from collector.agent import config
from collector.agent.config import Config
from collector.agent.errors import ConfigError

DEFAULT_PATH = Path("/etc/traffic-agent/config.toml")


def load(path: Path) -> Config:
    """Return what the file says; files it names are looked for beside it.

    ConfigError names the file, the table and the key.
    """

    def read_file(name: str) -> str:
        return (path.parent / name).read_text(encoding="utf-8")

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return config.parse(text, read_file=read_file)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def is_readable_by_others(path: Path) -> bool:
    """Tell whether other users of this machine can read the file, and the key in it."""
    return bool(path.stat().st_mode & stat.S_IROTH)
