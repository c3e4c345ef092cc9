"""A VictoriaMetrics as a target: what its flags have to be, as its metrics show them.

It keeps what is written twice, unless `-dedup.minScrapeInterval` has it drop one of two samples of
one time, and it drops what is older than `-retentionPeriod` without saying so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from collector.errors import InfluxRefusedError
from collector.influx.access import InfluxAccess
from collector.influx.client import answered, open_client, refusal
from collector.influx.storage_watch import Checked
from collector.schema import Policy

DAY_SECONDS = 86_400
_FLAG = re.compile(r'^flag\{name="([^"]*)", ?value="([^"]*)"', re.MULTILINE)
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy]?)")
_UNIT_SECONDS = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": DAY_SECONDS,
    "w": 7 * DAY_SECONDS,
    "y": 365 * DAY_SECONDS,
    "": 31 * DAY_SECONDS,
}
"""A retention without a unit is in months of 31 days."""
RETENTION = "retentionPeriod"
DEDUPLICATION = "dedup.minScrapeInterval"
MOST_DEDUPLICATED_SECONDS = 0.001
"""Above a millisecond, different reports would be dropped."""


@dataclass(frozen=True, slots=True)
class VictoriaStorage:
    """The flags of the VictoriaMetrics at an address; `raw_seconds` is how long points are kept."""

    access: InfluxAccess
    raw_seconds: int
    name: str = "the flags of VictoriaMetrics"

    def check(self) -> Checked:
        """Return the retention, and which flag has to be another one.

        A cluster shows its flags at its storage nodes, so nothing is said of them. Raises
        InfluxError, or SettingsError where the token's file cannot be read.
        """
        with answered(self.access.url), open_client(self.access) as client:
            answer = client.get("/metrics")
            if not answer.is_success:
                raise refusal(self.access.url, answer.status_code, answer.text)
        if "vm_app_version{" not in answer.text:
            raise InfluxRefusedError(
                f"{self.access.url} does not answer as VictoriaMetrics does: correct INFLUXDB_URL "
                "or INFLUXDB_KIND"
            )
        return judge(dict(_FLAG.findall(answer.text)), raw_seconds=self.raw_seconds)


def judge(flags: Mapping[str, str], *, raw_seconds: int) -> Checked:
    """Return the retention, and which of the flags has to be another one."""
    kept: dict[Policy, int] = {}
    problems: list[str] = []
    if retention := period_seconds(flags.get(RETENTION, "")):
        kept[Policy.RAW] = int(retention)
        if retention < raw_seconds:
            problems.append(
                f"VictoriaMetrics keeps points {retention / DAY_SECONDS:g} d, INFLUXDB_RAW_DAYS is "
                f"{raw_seconds / DAY_SECONDS:g}: start it with -{RETENTION}="
                f"{raw_seconds // DAY_SECONDS}d, or lower INFLUXDB_RAW_DAYS"
            )
    if DEDUPLICATION in flags:
        seconds = period_seconds(flags[DEDUPLICATION])
        if not seconds:
            problems.append(
                "VictoriaMetrics counts a point twice that is written twice, as after an outage: "
                f"start it with -{DEDUPLICATION}=1ms"
            )
        elif seconds > MOST_DEDUPLICATED_SECONDS:
            problems.append(
                f"VictoriaMetrics drops all but one of the reports of {flags[DEDUPLICATION]}: "
                f"start it with -{DEDUPLICATION}=1ms"
            )
    return Checked(kept, "; ".join(problems) or None)


def period_seconds(text: str) -> float:
    """Return the seconds of a duration as VictoriaMetrics writes it; 0 if it is none."""
    parts = _PERIOD.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0.0
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts if float(number))
