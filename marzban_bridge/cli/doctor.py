"""`marzban-bridge doctor`: prints what is wrong with the set-up, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict

from rich.text import Text

from collector.runtime.listening import local_url
from collector.runtime.logs import printable
from marzban_bridge.cli.kept_key import with_kept_key
from marzban_bridge.cli.output import console
from marzban_bridge.clock import utc_now
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.doctor.asking import observe
from marzban_bridge.doctor.findings import Finding, Level, examine, is_healthy
from marzban_bridge.doctor.notifications import examine_notifications, observe_notifications

STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "bold red"}
DEFAULT_COLLECTOR_URL = "http://127.0.0.1:8080"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument(
        "--grafana",
        metavar="URL",
        help="Grafana's address; default: GRAFANA_ROOT_URL, if an InfluxDB is configured",
    )
    command.add_argument(
        "--test-message",
        action="store_true",
        help="send a test message to each contact point of alerts (ALERTS_…)",
    )


def examine_all(environment: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 where something is wrong, and 0 otherwise."""
    settings = with_kept_key(Settings.from_env(environment))
    root_url = environment.get("GRAFANA_ROOT_URL", "") if settings.influxdb_url else ""
    seen = asyncio.run(
        observe(
            settings,
            load_panels(settings),
            collector_url=_collector_url(settings, environment),
            grafana_url=arguments.grafana or root_url,
            clock=utc_now,
        )
    )
    notifications = asyncio.run(observe_notifications(environment, sends=arguments.test_message))
    found = [*examine(seen), *examine_notifications(notifications)]
    is_well = is_healthy(found)
    if arguments.json:
        said = {"is_healthy": is_well, "findings": [asdict(each) for each in found]}
        print(json.dumps(said, ensure_ascii=False, indent=2))
    else:
        for each in found:
            console.print(_line(each), soft_wrap=True)
    return 0 if is_well else 1


def _collector_url(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return COLLECTOR_URL if it is set, else the address on which `up` runs the collector."""
    if settings.collector_url != DEFAULT_COLLECTOR_URL:
        return settings.collector_url
    port = environment.get("COLLECTOR_PORT", "")
    if not port.isdecimal():
        return settings.collector_url
    return local_url(environment.get("COLLECTOR_HOST") or "127.0.0.1", int(port))


def _line(found: Finding) -> Text:
    text = f": {found.text}"
    if found.todo:
        text += f". To do: {found.todo}"
    return Text.assemble(
        (f"{found.level:5}", STYLES[found.level]),
        f" {printable(f'{found.subject}, {found.check}{text}')}",
    )
