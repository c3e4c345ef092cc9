"""The address, kind and credentials of the database that points are written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collector.errors import SettingsError
from collector.influx.kinds import TargetKind

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
    kind: TargetKind = TargetKind.INFLUXDB

    def read_token(self) -> str:
        """Return the token; empty if there is none and this kind needs none.

        Raises SettingsError when one is needed, or its file cannot be read.
        """
        if self.token_file is None:
            if not self.token and self.kind.needs_token:
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

    def headers(self) -> Mapping[bytes, bytes]:
        """Return the headers that sign a request in; raises as `read_token`."""
        token = self.read_token()
        scheme = "Bearer" if self.kind is TargetKind.VICTORIAMETRICS else "Token"
        return {b"authorization": f"{scheme} {token}".encode()} if token else {}

    def write_parameters(self, bucket: str) -> Mapping[str, str]:
        """Return the query of a write of points with timestamps in nanoseconds."""
        if self.kind is TargetKind.VICTORIAMETRICS:
            return {"db": bucket, "precision": "ns"}
        return {"org": self.org, "bucket": bucket, "precision": "ns"}

    def _unreadable(self, reason: str) -> SettingsError:
        return SettingsError(
            f"INFLUXDB_TOKEN_FILE: {self.token_file} cannot be read ({reason}): {WHENCE}"
        )
