"""Reading a file that is configured: what is wrong with it is said with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from collector.runtime.config import ConfigError

T = TypeVar("T")


def read_config_file(path: Path, parse: Callable[[str], T], *, setting: str = "") -> T:
    """Return what a file says; ConfigError begins with the setting that names it, and its path."""
    where = f"{setting} {path}".lstrip()
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{where}: {reason}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
