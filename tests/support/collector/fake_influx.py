"""An InfluxDB that keeps points as the real one does, and can be away, full or particular."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from collector.errors import InfluxRefusedError, InfluxUnavailableError, SettingsError
from collector.influx.kinds import TargetKind
from collector.influx.outcome import Drop, Halt, Outcome, Retry, Split, Stored, decide
from collector.schema import Policy


@dataclass
class FakeInflux:
    """Stands in for the writer; the same series and timestamp overwrite each other."""

    url: str = "http://influx.test"
    kind: TargetKind = TargetKind.INFLUXDB
    points: dict[tuple[str, str, str], str] = field(default_factory=dict)
    is_down: bool = False
    retry_after_seconds: float | None = None
    is_forbidden: bool = False
    missing: set[str] = field(default_factory=set)
    """Buckets that are not there."""
    is_bad: Callable[[str], bool] = lambda _: False
    is_expired: Callable[[str], bool] = lambda _: False
    failing_request: int | None = None
    """Which of the requests is answered as if it were away."""
    requests: int = 0
    written: int = 0
    closes: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def write(self, bucket: str, lines: Sequence[str]) -> Outcome:
        with self.guard:
            return self._write(bucket, lines)

    def _write(self, bucket: str, lines: Sequence[str]) -> Outcome:
        self.requests += 1
        if self.is_down or self.requests == self.failing_request:
            return Retry("away", self.retry_after_seconds)
        if self.is_forbidden:
            return Halt("403 forbidden")
        if bucket in self.missing:
            return Halt(f"404 bucket {bucket!r} not found: run `traffic-collector bootstrap`")
        if any(map(self.is_bad, lines)):
            return Drop("400 bad line") if len(lines) == 1 else Split("400 bad line")
        expired = sum(map(self.is_expired, lines))
        for line in lines:
            if self.is_expired(line):
                continue
            key, fields, timestamp = line.rsplit(" ", 2)
            self.points[bucket, key, timestamp] = fields
        self.written += sum(each.startswith("traffic,") for each in lines) - expired
        if expired:
            reason = f"422 points beyond retention policy dropped={expired}"
            return decide(422, reason, lines=len(lines))
        return Stored()

    def close(self) -> None:
        self.closes += 1

    def sums(self, policy: Policy, *, measurement: str = "traffic") -> tuple[int, int, int]:
        """Return how many points a bucket has, and the bytes up and down in them."""
        with self.guard:
            mine = [
                fields
                for (bucket, key, _), fields in self.points.items()
                if bucket == policy.bucket and key.startswith(f"{measurement},")
            ]
        return len(mine), *(_sum(mine, name) for name in ("upload_bytes", "download_bytes"))


def _sum(points: list[str], name: str) -> int:
    pairs = (pair.partition("=") for each in points for pair in each.split(","))
    return sum(int(value.rstrip("i")) for field_name, _, value in pairs if field_name == name)


@dataclass
class FakeBuckets:
    """Stands in for bucket management."""

    kept_seconds: dict[str, int] = field(default_factory=dict)
    is_mapped: bool = False
    is_down: bool = False
    is_forbidden: bool = False
    is_unreadable: bool = False
    """The file with the token is not there."""
    defect: Exception | None = None
    looks: int = 0

    def current_seconds(self) -> dict[str, int]:
        self.looks += 1
        if self.defect:
            raise self.defect
        if self.is_unreadable:
            raise SettingsError("INFLUXDB_TOKEN_FILE: /tokens/token cannot be read")
        if self.is_down:
            raise InfluxUnavailableError("away")
        return dict(self.kept_seconds)

    def apply(self, changes) -> None:
        for change in changes:
            if self.is_forbidden:
                raise InfluxRefusedError("forbidden")
            self.kept_seconds[change.policy.bucket] = change.to_seconds

    def map_default(self) -> bool:
        if self.is_forbidden:
            raise InfluxRefusedError("forbidden")
        is_news, self.is_mapped = not self.is_mapped, True
        return is_news
