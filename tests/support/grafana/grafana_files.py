"""Our dashboards and alert rules as tests look at them: every panel, every query and its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
DASHBOARDS = ROOT / "grafana" / "dashboards"
PROVISIONING = ROOT / "provisioning"
RULES = PROVISIONING / "alerting" / "rules.yaml"
SAMPLES = sorted((PROVISIONING / "alerting" / "samples").glob("*.yaml"))
EXPRESSIONS = "__expr__"
INFLUX, PROMETHEUS = "influxdb", "prometheus"


@dataclass(frozen=True)
class Query:
    """One query, and everything that decides what becomes of it."""

    place: str
    text: str
    datasource: str
    dashboard: str | None = None
    time_from: str | None = None
    min_interval: str = "10s"
    max_data_points: int = 1000
    is_about_time: bool = True

    def __str__(self) -> str:
        return self.place


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    """Return all dashboards by uid."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel, those in collapsed rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def places() -> list[tuple[str, dict[str, Any]]]:
    """Return every panel with its dashboard's uid."""
    return [(uid, panel) for uid, dashboard in dashboards().items() for panel in panels(dashboard)]


def rules() -> list[dict[str, Any]]:
    """Return every alert rule."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _text(target: dict[str, Any]) -> str:
    return target.get("query") or target["expr"]


def panel_queries() -> list[Query]:
    return [
        Query(
            place=f"{uid}/{panel['id']} {panel['title']} {target['refId']}",
            text=_text(target),
            datasource=target["datasource"]["uid"],
            dashboard=uid,
            time_from=panel.get("timeFrom"),
            min_interval=panel.get("interval", "10s"),
            max_data_points=panel.get("maxDataPoints", 1000),
        )
        for uid, panel in places()
        for target in panel.get("targets", [])
    ]


def variable_queries() -> list[Query]:
    return [
        Query(
            place=f"{uid}/variable {variable['name']}",
            text=variable["definition"],
            datasource=variable["datasource"]["uid"],
            dashboard=uid,
            is_about_time=False,
        )
        for uid, dashboard in dashboards().items()
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]


def annotation_queries() -> list[Query]:
    return [
        Query(
            place=f"{uid}/annotation {annotation['name']}",
            text=annotation["query"],
            datasource=annotation["datasource"]["uid"],
            dashboard=uid,
        )
        for uid, dashboard in dashboards().items()
        for annotation in dashboard["annotations"]["list"]
        if "query" in annotation
    ]


def alert_queries() -> list[Query]:
    return [
        Query(
            place=f"alert {rule['uid']} {data['refId']}",
            text=_text(data["model"]),
            datasource=data["datasourceUid"],
            time_from=f"{data['relativeTimeRange']['from']}s",
        )
        for rule in rules()
        for data in rule["data"]
        if data["datasourceUid"] != EXPRESSIONS
    ]


def all_queries() -> list[Query]:
    """Return every query of every file."""
    return [*panel_queries(), *variable_queries(), *annotation_queries(), *alert_queries()]
