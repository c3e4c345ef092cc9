"""What Grafana's alerting does with our rules: reduce, threshold, pending period, states, texts.

Only the shape that our rules have: a query, its last value, a threshold. Times are seconds that the
caller names, so that nothing waits. What a rule does without data or with an error is as in
Grafana 10.4 and later (`KeepLast`, and one result for all states of a rule).
https://grafana.com/docs/grafana/latest/alerting/fundamentals/alert-rule-evaluation/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.grafana.go_template import NO_VALUE, Templates

Labels = tuple[tuple[str, str], ...]
Series = Mapping[Labels, float]
"""The last value of each series that a query returned."""
MISSED_EVALUATIONS = 2
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class QueryError(Exception):
    """The datasource did not answer, or with an error."""


@dataclass(frozen=True)
class Notification:
    """One alert that begins or ends, as contact points are told."""

    status: str
    """firing or resolved."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def summary(self) -> str:
        return self.annotations["summary"]


@dataclass
class _State:
    name: str = "Normal"
    since: float = 0
    evaluated_at: float = 0
    annotations: Mapping[str, str] = field(default_factory=dict)


def seconds_of(text: str) -> int:
    """Read `0s`, `5m` or `1h`."""
    return int(text[:-1]) * _SECONDS[text[-1]]


class RuleRun:
    """One rule, evaluated again and again; its states are kept in between."""

    def __init__(self, rule: Mapping[str, Any], *, interval_seconds: int = 60) -> None:
        self.rule = rule
        self._interval_seconds = interval_seconds
        self._for_seconds = seconds_of(rule["for"])
        self._states: dict[Labels, _State] = {}
        self.notifications: list[Notification] = []

    @property
    def firing(self) -> list[dict[str, str]]:
        """The labels of what fires now."""
        return [dict(labels) for labels, state in self._states.items() if state.name == "Alerting"]

    def evaluate(self, at: float, query: Callable[[], Series]) -> list[Notification]:
        """Evaluate the rule once; return what begins and ends."""
        known = len(self.notifications)
        try:
            series = query()
        except QueryError:
            self._without_values(at, self.rule["execErrState"])
            return self.notifications[known:]
        values = {labels: value for labels, value in series.items() if not math.isnan(value)}
        if not values:
            self._without_values(at, self.rule["noDataState"])
            return self.notifications[known:]
        for labels, value in values.items():
            state = self._states.setdefault(labels, _State(since=at))
            state.annotations = texts(self.rule, labels, _captured(labels, values))
            state.evaluated_at = at
            self._set(labels, state, at, is_alerting=self._is_beyond(value))
        for labels, state in list(self._states.items()):
            missed_seconds = at - state.evaluated_at
            if labels not in values and missed_seconds >= (
                MISSED_EVALUATIONS * self._interval_seconds
            ):
                self._set(labels, state, at, is_alerting=False)
                del self._states[labels]
        return self.notifications[known:]

    def _is_beyond(self, value: float) -> bool:
        [condition] = self.rule["data"][2]["model"]["conditions"]
        [bound] = condition["evaluator"]["params"]
        return {"gt": value > bound, "lt": value < bound}[condition["evaluator"]["type"]]

    def _without_values(self, at: float, what: str) -> None:
        if not self._states:
            self._states[()] = _State(since=at, annotations=texts(self.rule, (), None))
        for labels, state in self._states.items():
            state.evaluated_at = at
            if what != "KeepLast":
                self._set(labels, state, at, is_alerting={"OK": False, "Alerting": True}[what])
            elif state.name == "Pending" and at - state.since >= self._for_seconds:
                self._set(labels, state, at, is_alerting=True)

    def _set(self, labels: Labels, state: _State, at: float, *, is_alerting: bool) -> None:
        before = state.name
        if not is_alerting:
            state.name = "Normal"
        elif before == "Normal":
            state.name, state.since = ("Pending" if self._for_seconds else "Alerting"), at
        elif before == "Pending" and at - state.since >= self._for_seconds:
            state.name = "Alerting"
        if (before == "Alerting") != (state.name == "Alerting"):
            status = "firing" if state.name == "Alerting" else "resolved"
            self.notifications.append(
                Notification(status, self._all_labels(labels), state.annotations)
            )

    def _all_labels(self, labels: Labels) -> dict[str, str]:
        return {
            "alertname": self.rule["title"],
            "grafana_folder": "VPN traffic",
            **self.rule["labels"],
            **dict(labels),
        }


def _captured(labels: Labels, values: Series) -> float:
    """Return what `$values` has for a series: of one whose labels it contains, that one's value."""
    within = [value for other, value in values.items() if set(other) < set(labels)]
    return within[-1] if within else values[labels]


def texts(rule: Mapping[str, Any], labels: Labels, value: float | None) -> dict[str, str]:
    """Return the annotations of an alert; without a value, those of an error or of no data."""
    values = {} if value is None else {"B": {"Value": value}, "C": {"Value": 1.0}}
    known = {"labels": {**rule["labels"], **dict(labels)}, "values": values}
    return {
        name: Templates().render(text, {}, **known).replace(NO_VALUE, "[no value]")
        for name, text in rule["annotations"].items()
    }


def labels_of(row: Mapping[str, Any], names: Sequence[str]) -> Labels:
    """Return some columns of a row as labels."""
    return tuple((name, str(row[name])) for name in names if name in row)
