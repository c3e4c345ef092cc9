"""The collector's settings: the only reader of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collector.influx.kinds import TargetKind
from collector.reports.byte_bounds import Bounds
from collector.reports.identity import FIRST_PANEL
from collector.reports.reporters import MIN_KEY_LENGTH
from collector.reports.spikes import SpikeRule
from collector.runtime.config import ConfigError
from collector.runtime.config.values import (
    FLAG,
    PATH,
    TEXT,
    WEB_URL,
    header_text,
    number,
    seconds,
    text,
    whole,
)
from collector.runtime.config.variables import variable
from collector.runtime.listening import local_url
from collector.schema import Policy
from collector.setting_values import (
    LEDGER_URL,
    REPORTER_KEYS,
    REPORTER_NAMES,
    SUBSCRIPTION_URLS,
    USUAL_SUBSCRIPTION_PATH,
)
from collector.shared_settings import SharedSettings

RATE = number(0, 1e9, expected="expected a number of 0 (no limit) or more")
"""Requests per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(SharedSettings):
    """All settings of the collector, as typed values.

    `from_env` raises ConfigError naming the variable that is malformed. Secrets are kept out of
    the representation.
    """

    ledger_url: str = variable(
        "LEDGER_URL",
        "sqlite:///./data/ledger.sqlite3",
        "The ledger holds all totals: back it up. A file, or postgresql://… for several collectors",
        LEDGER_URL,
        is_secret=True,
    )
    sum_partitions: int = variable(
        "COLLECTOR_SUM_PARTITIONS",
        4,
        "Parts of the users of a PostgreSQL ledger, each of which is added up by itself",
        whole(1, 64),
    )
    host: str = variable("COLLECTOR_HOST", "127.0.0.1", "Address to listen on", TEXT)
    port: int = variable("COLLECTOR_PORT", 8080, "Port to listen on", whole(0, 65535))
    public_url: str = variable(
        "COLLECTOR_PUBLIC_URL",
        "",
        "Where senders reach the collector, for what `reporters add` prints",
        WEB_URL,
    )
    admin_key: str = variable(
        "COLLECTOR_ADMIN_KEY",
        "",
        "The key with which the bridge reads the change feed and the statistics",
        header_text(MIN_KEY_LENGTH),
        is_secret=True,
    )
    reporter_keys: tuple[tuple[str, str], ...] = variable(
        "COLLECTOR_REPORTER_KEYS",
        "",
        "Reporters in addition to those of `traffic-collector reporters`: name:key,name2:key2",
        REPORTER_KEYS,
        is_secret=True,
    )
    reporters_outside_quota: tuple[str, ...] = variable(
        "COLLECTOR_REPORTERS_OUTSIDE_QUOTA",
        "",
        "Names of COLLECTOR_REPORTER_KEYS whose reports are shown and count toward no quota",
        REPORTER_NAMES,
    )
    marzban_url: str = variable(
        "MARZBAN_URL",
        "",
        "The panel, to verify users' subscription tokens",
        WEB_URL,
    )
    subscription_path: str = variable(
        "COLLECTOR_SUBSCRIPTION_PATH",
        USUAL_SUBSCRIPTION_PATH,
        "Where that panel has its subscriptions: Marzban's XRAY_SUBSCRIPTION_PATH, say",
        text(lambda raw: raw.strip("/")),
    )
    subscription_urls: tuple[tuple[str, str], ...] = variable(
        "COLLECTOR_SUBSCRIPTION_URLS",
        "",
        "Further panels whose users may report for themselves: two=https://two.example.com/sub",
        SUBSCRIPTION_URLS,
    )
    report_ceiling_bytes: int = variable(
        "COLLECTOR_REPORT_CEILING_BYTES",
        10 * 2**40,
        "The most bytes of one report, in each direction",
        whole(1, 2**60),
    )
    user_request_bytes: int = variable(
        "COLLECTOR_USER_REQUEST_BYTES",
        4 * 2**40,
        "The most bytes, both directions, in one request of a user without a key",
        whole(1, 2**62),
    )
    user_hour_bytes: int = variable(
        "COLLECTOR_USER_HOUR_BYTES",
        8 * 2**40,
        "The most bytes from one user without a key per hour (UTC); more is refused with 429",
        whole(1, 2**62),
    )
    user_day_bytes: int = variable(
        "COLLECTOR_USER_DAY_BYTES",
        32 * 2**40,
        "The same per day; 10.8 TB is 1 Gbit/s all day",
        whole(1, 2**62),
    )
    key_request_bytes: int = variable(
        "COLLECTOR_KEY_REQUEST_BYTES",
        64 * 2**40,
        "The most bytes, both directions, in one request with a reporter key",
        whole(1, 2**62),
    )
    key_hour_bytes: int = variable(
        "COLLECTOR_KEY_HOUR_BYTES",
        256 * 2**40,
        "The most bytes with one reporter key per hour (UTC); more is refused with 429",
        whole(1, 2**62),
    )
    key_day_bytes: int = variable(
        "COLLECTOR_KEY_DAY_BYTES",
        2**51,
        "The same per day; 108 TB is 10 Gbit/s all day",
        whole(1, 2**62),
    )
    user_servers_per_day: int = variable(
        "COLLECTOR_USER_SERVERS_PER_DAY",
        256,
        "Servers (with port and protocol) per day of one user without a key; more count as `other`",
        whole(1, 1_000_000),
    )
    key_servers_per_day: int = variable(
        "COLLECTOR_KEY_SERVERS_PER_DAY",
        4096,
        "The same for one reporter key",
        whole(1, 1_000_000),
    )
    spike_factor: int = variable(
        "COLLECTOR_SPIKE_FACTOR",
        10,
        "An hour above this many times the sender's largest hour of 14 days is a spike",
        whole(1, 1_000_000),
    )
    spike_floor_bytes: int = variable(
        "COLLECTOR_SPIKE_FLOOR_BYTES",
        50 * 2**30,
        "An hour with fewer bytes than this is never a spike",
        whole(0, 2**62),
    )
    dedup_window_days: int = variable(
        "COLLECTOR_DEDUP_WINDOW_DAYS",
        7,
        "How long report ids are remembered; older reports are refused",
        whole(1, 365),
    )
    retention_days: int = variable(
        "COLLECTOR_RETENTION_DAYS",
        0,
        "A cleanup without `days` removes daily rows older than this; 0: `days` is required",
        whole(0, 36500),
    )
    max_body_bytes: int = variable(
        "COLLECTOR_MAX_BODY_BYTES",
        8 * 2**20,
        "The largest request body, before and after decompression",
        whole(1024, 2**30),
    )
    max_keyless_body_bytes: int = variable(
        "COLLECTOR_MAX_KEYLESS_BODY_BYTES",
        256 * 2**10,
        "The largest body of a request without a key, before and after decompression",
        whole(1024, 2**30),
    )
    sources_file: Path | None = variable(
        "COLLECTOR_SOURCES_FILE",
        "",
        "A TOML file: the servers and users of other panels that report (docs/sources)",
        PATH,
    )
    max_source_body_bytes: int = variable(
        "COLLECTOR_MAX_SOURCE_BODY_BYTES",
        32 * 2**20,
        "The largest request body of another panel; such a body names all users of that panel",
        whole(1024, 2**30),
    )
    max_connections: int = variable(
        "COLLECTOR_MAX_CONNECTIONS",
        4096,
        "Most open connections; when full, the one sending its request longest is closed",
        whole(8, 1_000_000),
    )
    read_seconds: float = variable(
        "COLLECTOR_READ_SECONDS",
        15,
        "Seconds for a request's head; its body has these and one second more per 8 KiB",
        seconds(0.05, 3600),
    )
    max_queued_reports: int = variable(
        "COLLECTOR_MAX_QUEUED_REPORTS",
        100_000,
        "Reports that may wait for a commit; when the queue is full, senders get 503",
        whole(1, 10_000_000),
    )
    key_requests_per_second: float = variable(
        "COLLECTOR_KEY_REQUESTS_PER_SECOND", 2000, "For each reporter key; 0: no limit", RATE
    )
    user_requests_per_second: float = variable(
        "COLLECTOR_USER_REQUESTS_PER_SECOND", 5, "For each user without a key; 0: no limit", RATE
    )
    min_free_disk_bytes: int = variable(
        "COLLECTOR_MIN_FREE_DISK_BYTES",
        64 * 2**20,
        "With less free disk than this, /readyz reports a problem",
        whole(0, 2**60),
    )

    influxdb_admin_token: str = variable(
        "INFLUXDB_ADMIN_TOKEN",
        "",
        "An operator's token, for `traffic-collector bootstrap` alone",
        header_text(),
        is_secret=True,
    )
    influxdb_prepares_buckets: bool = variable(
        "INFLUXDB_PREPARES_BUCKETS",
        "true",
        "Create the buckets and set their retention; false if others do, or it is InfluxDB 1.8",
        FLAG,
    )
    influxdb_daily_days: int = variable(
        "INFLUXDB_DAILY_DAYS",
        0,
        "How long InfluxDB keeps a point per day and series; 0: for ever",
        whole(0, 36500),
    )

    @property
    def prepares_buckets(self) -> bool:
        """Whether InfluxDB's buckets are created and their retention set; only 2.x has any."""
        return self.influxdb_prepares_buckets and self.influxdb_kind is TargetKind.INFLUXDB

    @property
    def senders_url(self) -> str:
        """Where senders reach the collector; unless it is set, where this machine does."""
        return self.public_url or local_url(self.host, self.port)

    @property
    def subscription_links(self) -> Mapping[str, str]:
        """Where the subscription links of each panel begin, by its name, in the panels' order."""
        links = dict(self.subscription_urls)
        if self.marzban_url:
            first = f"{self.marzban_url}/{self.subscription_path}".rstrip("/")
            links = {FIRST_PANEL: first} | links
        return links

    @property
    def spike_rule(self) -> SpikeRule:
        """From which bytes per hour a sender's hour is a spike."""
        return SpikeRule(self.spike_factor, self.spike_floor_bytes)

    @property
    def user_bounds(self) -> Bounds:
        """How many bytes a user without a key may report."""
        return Bounds(
            "COLLECTOR_USER", self.user_request_bytes, self.user_hour_bytes, self.user_day_bytes
        )

    @property
    def key_bounds(self) -> Bounds:
        """How many bytes a reporter with a key may report."""
        return Bounds(
            "COLLECTOR_KEY", self.key_request_bytes, self.key_hour_bytes, self.key_day_bytes
        )

    @property
    def influx_retention_seconds(self) -> Mapping[Policy, int]:
        """How long each retention policy keeps its points; 0 is for ever."""
        return {
            Policy.RAW: self.influxdb_raw_days * 86_400,
            Policy.DAILY: self.influxdb_daily_days * 86_400,
        }

    def check(self) -> None:
        """Raise ConfigError where one setting contradicts another one."""
        self._refuse_unknown_names()
        self._refuse_unreachable_bounds()
        self._refuse_panels_named_twice()

    def _refuse_panels_named_twice(self) -> None:
        names: dict[str, str] = {}
        for name, url in self.subscription_links.items():
            other = names.setdefault(url.lower(), name)
            if other != name:
                raise ConfigError(
                    f"COLLECTOR_SUBSCRIPTION_URLS: {name} has the address of panel {other}; each "
                    "must be another panel"
                )

    def _refuse_unreachable_bounds(self) -> None:
        for bounds in (self.user_bounds, self.key_bounds):
            for less, more in (("request", "hour"), ("hour", "day")):
                if bounds.bytes_of(less) > bounds.bytes_of(more):
                    raise ConfigError(
                        f"{bounds.setting_of(less)}: {bounds.bytes_of(less)} is above the "
                        f"{bounds.bytes_of(more)} of {bounds.setting_of(more)}; what one {less} "
                        f"may bring has to fit in one {more}"
                    )

    def _refuse_unknown_names(self) -> None:
        known = dict(self.reporter_keys)
        for place, name in enumerate(self.reporters_outside_quota, start=1):
            if name not in known:  # not repeated: it may be a key, misplaced
                raise ConfigError(
                    f"COLLECTOR_REPORTERS_OUTSIDE_QUOTA: entry {place} is no name in "
                    "COLLECTOR_REPORTER_KEYS; for a reporter that was made with `reporters add`, "
                    "run `traffic-collector reporters change NAME --outside-quota`"
                )
