"""The address and credentials of an InfluxDB."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from collector.errors import SettingsError

WHENCE = "`traffic-collector bootstrap --tokens DIR` writes one"


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
        """Return the token; SettingsError when there is none, or its file cannot be read."""
        if self.token_file is None:
            if not self.token:
                raise SettingsError(
                    f"INFLUXDB_TOKEN is empty, and so is INFLUXDB_TOKEN_FILE: {WHENCE}"
                )
            return self.token
        try:
            token = self.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise self._unreadable(str(error.strerror)) from error
        except UnicodeDecodeError as error:
            raise self._unreadable("it is no text") from error
        if not token:
            raise SettingsError(f"INFLUXDB_TOKEN_FILE: {self.token_file} is empty: {WHENCE}")
        return token

    def _unreadable(self, reason: str) -> SettingsError:
        return SettingsError(
            f"INFLUXDB_TOKEN_FILE: {self.token_file} cannot be read ({reason}): {WHENCE}"
        )
