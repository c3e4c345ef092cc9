"""The address and credentials of an InfluxDB."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from collector.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluxAccess:
    """An InfluxDB's address, organization and token; the token is kept out of the representation.

    The token may be in a file, which is read again for each client, so that it can be replaced.
    """

    url: str
    org: str
    token: str = field(repr=False)
    token_file: Path | None = None

    def read_token(self) -> str:
        """Return the token; SettingsError when its file cannot be read."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"INFLUXDB_TOKEN_FILE: {self.token_file} cannot be read: {error}"
            ) from error
