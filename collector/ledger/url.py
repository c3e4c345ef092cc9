"""Which ledger LEDGER_URL names, and whether it can be opened here; loads no engine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from collector.errors import SettingsError

POSTGRES_SCHEMES = ("postgresql", "postgres")


def is_postgres(url: str) -> bool:
    """Tell whether a URL names a PostgreSQL database."""
    return urlsplit(url).scheme in POSTGRES_SCHEMES


def ledger_path(url: str) -> Path:
    """Return the file of a `sqlite:///` URL; SettingsError for another URL."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise SettingsError(
            f"LEDGER_URL: {parts.scheme or url!r} is not supported; expected a file such as "
            "sqlite:///./data/ledger.sqlite3 (four slashes for an absolute path), or a database: "
            "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    return Path(parts.path[1:])


def demand_driver() -> None:
    """Raise SettingsError unless PostgreSQL's driver is installed."""
    if find_spec("psycopg") is None or find_spec("psycopg_pool") is None:
        raise SettingsError(
            "LEDGER_URL is a PostgreSQL ledger, but its driver is not installed: "
            "pip install 'marzban-external-traffic[postgres]' (a checkout: uv sync --extra "
            "postgres); the Docker image has it"
        )


def check_url(url: str) -> None:
    """Raise SettingsError for an unsupported or malformed URL, or a missing driver."""
    if not is_postgres(url):
        ledger_path(url)
        return
    demand_driver()
    from collector.ledger.postgres.link import name_of  # noqa: PLC0415 - 10 MB that a file saves

    name_of(url)
