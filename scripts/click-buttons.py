#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["playwright==1.55.0"]
# ///
"""Presses every button of the dashboards in a browser, on a stack that may be changed by it.

`uvx playwright@1.55.0 install chromium` once; then, with the demo stack running:
    scripts/click-buttons.py --grafana http://localhost:3000 --password admin
It ends with 0 when each button was there, asked first, was answered 200 by the bridge, and left an
event.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import APIRequestContext, Page, Playwright, sync_playwright

PROXY = "/api/datasources/proxy/uid/bridge-actions/actions/"
EVENTS = "/api/datasources/proxy/uid/influxdb/query"
TYPED = {"confirm": "reset all users", "days": "30"}
"""What a person types for the variables of an action."""
LEAST_VERSION = (12, 1)
SHOWN_MILLIS = 60_000
EVENT_SECONDS = 120


@dataclass(frozen=True)
class Button:
    """An action of a panel."""

    dashboard: str
    panel: int
    title: str
    variables: dict[str, str]
    """What is typed, by the label of its field."""

    def __str__(self) -> str:
        return f"{self.dashboard}, panel {self.panel}: {self.title}"


def buttons_of(dashboard: dict[str, Any]) -> Iterator[Button]:
    """Yield every button of a dashboard, in collapsed rows too."""
    every = [each for panel in dashboard["panels"] for each in (panel, *panel.get("panels", []))]
    for panel in every:
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            for each in override["properties"]:
                for action in each["value"] if each["id"] == "actions" else ():
                    labels = {it["name"]: TYPED[it["key"]] for it in action.get("variables", [])}
                    yield Button(dashboard["uid"], panel["id"], action["title"], labels)


def answered(request: APIRequestContext, path: str, **arguments: Any) -> Any:
    """Return what Grafana answers as JSON; end where it refuses."""
    answer = request.get(path, **arguments)
    if not answer.ok:
        sys.exit(f"{path}: {answer.status} {answer.text()[:200]}")
    return answer.json()


def press(page: Page, grafana: str, button: Button) -> int:
    """Press a button as a person does; return the status of what the browser posted."""
    page.goto(f"{grafana}/d/{button.dashboard}?viewPanel={button.panel}&from=now-24h&to=now")
    # In a cell: a column's head may be a button of the same name
    cells = page.get_by_role("gridcell").or_(page.get_by_role("cell"))
    shown = cells.get_by_role("button", name=button.title, exact=True).first
    shown.wait_for(state="visible", timeout=SHOWN_MILLIS)
    shown.click()
    if button.variables:
        for label, value in button.variables.items():
            page.get_by_label(label, exact=True).or_(page.get_by_placeholder("Value")).first.fill(
                value
            )
        page.get_by_role("button", name="Continue", exact=True).click()
    with page.expect_response(lambda it: PROXY in it.url and it.request.method == "POST") as posted:
        page.get_by_role("dialog").get_by_role("button", name="Confirm", exact=True).click()
    return posted.value.status


def events_by(request: APIRequestContext, login: str) -> int:
    """Return how many events name this login of Grafana."""
    query = 'SELECT "actor" FROM "raw"."events" WHERE time > now() - 1d'
    found = answered(request, EVENTS, params={"db": "traffic", "q": query})
    rows = [row for each in found["results"][0].get("series", []) for row in each["values"]]
    return sum(actor == f"grafana:{login}" for _, actor in rows)


def run(playwright: Playwright, arguments: argparse.Namespace) -> int:
    """Press all; return how many things were not as they should be."""
    grafana = arguments.grafana.rstrip("/")
    browser = playwright.chromium.launch(executable_path=arguments.browser or None)
    page = browser.new_context(base_url=grafana).new_page()
    page.set_default_timeout(SHOWN_MILLIS)
    signed_in = page.request.post(
        "/login", data={"user": arguments.login, "password": arguments.password}
    )
    if not signed_in.ok:
        sys.exit(f"Grafana does not let {arguments.login} in: {signed_in.status}")
    version = str(answered(page.request, "/api/health")["version"])
    print(f"Grafana {version}")
    faults = 0
    found = answered(page.request, "/api/search", params={"type": "dash-db"})
    buttons = [
        button
        for each in found
        for button in buttons_of(
            answered(page.request, f"/api/dashboards/uid/{each['uid']}")["dashboard"]
        )
    ]
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST_VERSION:
        print(f"it is too old to show any of the {len(buttons)} buttons: 12.1 is needed")
        return faults
    before = events_by(page.request, arguments.login)
    for button in buttons:
        status = press(page, grafana, button)
        print(f"{status}  {button}")
        faults += status != 200
    faults += not buttons
    deadline = time.monotonic() + EVENT_SECONDS
    while (left := events_by(page.request, arguments.login) - before) < len(buttons):
        if time.monotonic() > deadline:
            faults += 1
            break
        time.sleep(1)
    print(json.dumps({"buttons": len(buttons), "events": left, "faults": faults}))
    browser.close()
    return faults


def main() -> int:
    """Read the arguments and press the buttons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grafana", required=True, metavar="URL")
    parser.add_argument("--login", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--browser", metavar="FILE", help="a Chromium; default: Playwright's")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        return 1 if run(playwright, arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
