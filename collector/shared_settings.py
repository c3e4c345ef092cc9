"""Settings that collector and bridge read from the same environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from collector.influx.access import InfluxAccess
from collector.influx.kinds import TargetKind
from collector.runtime.config.values import (
    PATH,
    TEXT,
    WEB_URL,
    header_text,
    member_of,
    text,
    whole,
)
from collector.runtime.config.variables import Variable, read_variables, variable, variables_of
from collector.runtime.http.strangers import forwarded_allow_ips


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """How to reach InfluxDB, and which proxies to trust; both programs' `Settings` extend it."""

    forwarded_allow_ips: tuple[str, ...] = variable(
        "FORWARDED_ALLOW_IPS",
        "",
        "Proxies whose X-Forwarded-For is trusted: addresses or networks, or *; empty: none",
        text(forwarded_allow_ips, empty=()),
    )
    influxdb_url: str = variable(
        "INFLUXDB_URL", "", "The URL of InfluxDB; empty: no time series are written", WEB_URL
    )
    influxdb_kind: TargetKind = variable(
        "INFLUXDB_KIND",
        "influxdb",
        "What answers there: influxdb, influxdb3 or victoriametrics",
        member_of(TargetKind),
    )
    influxdb_org: str = variable("INFLUXDB_ORG", "vpn", "InfluxDB's organization", TEXT)
    influxdb_token: str = variable(
        "INFLUXDB_TOKEN", "", "A token that may write to its buckets", header_text(), is_secret=True
    )
    influxdb_token_file: Path | None = variable(
        "INFLUXDB_TOKEN_FILE", "", "A file with that token instead", PATH
    )
    influxdb_raw_days: int = variable(
        "INFLUXDB_RAW_DAYS", 30, "How long InfluxDB keeps a point per report", whole(1, 36500)
    )

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; unset and empty variables take their defaults.

        Raises ConfigError naming a variable that is malformed, or contradicts another one.
        """
        settings = read_variables(cls, environment)
        settings.check()
        return settings

    @classmethod
    def variables(cls) -> list[Variable]:
        """List every variable, for the documentation and its test."""
        return variables_of(cls)

    def check(self) -> None:
        """Raise ConfigError where one setting contradicts another one."""

    def influx_access(self) -> InfluxAccess:
        """Return how the running program reaches InfluxDB."""
        return InfluxAccess(
            url=self.influxdb_url,
            org=self.influxdb_org,
            token=self.influxdb_token,
            token_file=self.influxdb_token_file,
            kind=self.influxdb_kind,
        )
