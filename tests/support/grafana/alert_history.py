"""Five hours of both programs' metrics, in which everything that alerts are about happens.

A sample a minute. Times are minutes since the beginning; the phases follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

GIB = 1 << 30
WELL = range(70)
ILL = range(70, 160)
"""All that can be wrong is; both programs answer."""
PROGRAMS_AWAY = range(160, 180)
ILL_AFTER_RESTART = range(180, 190)
PROMETHEUS_AWAY = range(190, 205)
ILL_AFTER_PROMETHEUS = range(205, 215)
WELL_AGAIN = range(215, 290)
END = WELL_AGAIN.stop
_BAD = {*ILL, *ILL_AFTER_RESTART, *PROMETHEUS_AWAY, *ILL_AFTER_PROMETHEUS}
_STARTS = (0, PROGRAMS_AWAY.stop)


@dataclass(frozen=True)
class Metric:
    """One series: its value at each minute; None where the program does not show it."""

    name: str
    at: Callable[[int], float | None]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def job(self) -> str:
        return self.labels.get("job") or self.name.partition("_")[0]


def gauge(name: str, well: float | None, ill: float, **labels: str) -> Metric:
    return Metric(name, lambda minute: ill if minute in _BAD else well, labels)


def counter(name: str, *, is_born_when_needed: bool = False, **labels: str) -> Metric:
    """Return a counter that grows by five each minute that is bad, from 0 at each start."""

    def at(minute: int) -> float | None:
        start = max(each for each in _STARTS if each <= minute)
        grown = 5.0 * sum(each in _BAD for each in range(start, minute + 1))
        return None if is_born_when_needed and not grown else grown

    return Metric(name, at, labels)


def _accepted(minute: int) -> float:
    start = max(each for each in _STARTS if each <= minute)
    return 10.0 * sum(each not in _BAD for each in range(start, minute + 1))


def history_metrics(began_at: float) -> list[Metric]:
    """Return every series; `began_at` is minute 0, in Unix seconds."""
    return [
        gauge("bridge_leads", 1, 1),
        gauge("bridge_panel_up", 1, 1, panel="default"),
        gauge("bridge_panel_up", 1, 0, panel="two"),
        gauge("bridge_oldest_pending_reset_seconds", 0, 480),
        gauge("bridge_held_accounts", 0, 3),
        gauge("bridge_store_in_doubt", 0, 1),
        gauge("bridge_panel_in_doubt", 0, 1, panel="two", reason="went_back"),
        gauge("bridge_panel_in_doubt", 0, 1, panel="default", reason="users_gone"),
        gauge("bridge_panel_in_doubt", 0, 1, panel="default", reason="second_bridge"),
        gauge("bridge_reseller_used_ratio", 0.2, 0.85, admin="near"),
        gauge("bridge_reseller_used_ratio", 0.2, 0.95, admin="almost"),
        gauge("bridge_reseller_used_ratio", 0.2, 1.2, admin="over"),
        gauge("bridge_orphans", 0, 2),
        gauge("bridge_online_users", 4, 4),
        gauge("collector_queued_reports", 0, 0),
        counter("collector_report_requests_total", status="503"),
        Metric("collector_reports_accepted_total", _accepted),
        gauge("collector_ledger_free_disk_bytes", 41 * GIB, GIB // 2),
        counter("collector_reports_beyond_capacity_total"),
        counter(
            "collector_requests_beyond_bounds_total",
            is_born_when_needed=True,
            reporter="de-1",
            span="hour",
        ),
        counter("collector_reports_under_other_total", is_born_when_needed=True, reporter=""),
        gauge("collector_sender_spike_bytes", None, 60 * GIB, reporter="de-1"),
        Metric(
            "collector_reporter_last_report_timestamp_seconds",
            lambda minute: began_at + 60 * (WELL[-1] if minute in _BAD else minute),
            {"reporter": "de-1"},
        ),
        gauge("collector_influx_up", 1, 0),
        gauge("collector_export_lag_reports", 0, 500),
        gauge("collector_export_lag_seconds", 4, 900),
        counter("collector_export_dead_letters_total", stream="raw"),
        gauge("collector_ledger_lacks_commits", 0, 1),
        gauge("collector_ledger_standby_waiting", 0, 2),
    ]


def openmetrics(began_at: float) -> str:
    """Return all samples as OpenMetrics text."""
    lines: dict[str, list[str]] = {}
    for metric in history_metrics(began_at):
        labels = {"job": metric.job, "instance": metric.job, **metric.labels}
        written = ",".join(f'{name}="{value}"' for name, value in labels.items() if value)
        samples = lines.setdefault(metric.name, [])
        for minute in range(END):
            value = metric.at(minute)
            if value is not None and minute not in (*PROGRAMS_AWAY, *PROMETHEUS_AWAY):
                samples.append(f"{metric.name}{{{written}}} {value} {began_at + 60 * minute}")
    for job in ("bridge", "collector"):
        lines.setdefault("up", []).extend(
            f'up{{job="{job}",instance="{job}"}} {int(minute not in PROGRAMS_AWAY)} '
            f"{began_at + 60 * minute}"
            for minute in range(END)
            if minute not in PROMETHEUS_AWAY
        )
    text = []
    for name, samples in lines.items():
        text += [f"# TYPE {name} unknown", *samples]
    return "\n".join([*text, "# EOF", ""])
