"""docs/alerts.md as the dashboard "Traffic: Alerts": `python -m tests.support.grafana.runbook` writes it.

A rule's panel has the number that its `runbook_url` names.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.grafana.grafana_files import DASHBOARDS, ROOT, dashboards, panels, rules

UID = "traffic-alerts"
FIRST_ID = 2
"""The panel of the first rule; 1 is the list of what fires."""
LIST_HEIGHT, TEXT_HEIGHT, HALF = 8, 9, 12
WHOLE = 2 * HALF
TAKEN_OVER = ("tags", "editable", "timezone", "refresh", "graphTooltip", "fiscalYearStartMonth")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")


def sections() -> dict[str, str]:
    """Return the text of each section of docs/alerts.md by its title."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    found = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {title: body.strip() for title, body in found}


def _without_links(found: re.Match[str]) -> str:
    """Say where the document is: Grafana does not have it."""
    label, target = found[1], found[2].partition("#")[0]
    return f"{label} (docs/{target})" if target else label


def runbook() -> dict[str, Any]:
    """Return the dashboard."""
    overview = dashboards()["traffic-overview"]
    [alerts] = [each for each in panels(overview) if each["type"] == "alertlist"]
    shown = [alerts | {"id": 1, "gridPos": {"x": 0, "y": 0, "w": WHOLE, "h": LIST_HEIGHT}}]
    texts, known = sections(), rules()
    for number, rule in enumerate(known):
        is_alone = number == len(known) - 1 and number % 2 == 0
        place = {
            "x": number % 2 * HALF,
            "y": LIST_HEIGHT + number // 2 * TEXT_HEIGHT,
            "w": WHOLE if is_alone else HALF,
            "h": TEXT_HEIGHT,
        }
        content = _LINK.sub(_without_links, texts[rule["title"]])
        shown.append(
            {
                "id": FIRST_ID + number,
                "type": "text",
                "title": rule["title"],
                "description": f"What the alert {rule['title']} means, and what to do about it.",
                "gridPos": place,
                "options": {"mode": "markdown", "content": content},
            }
        )
    return {
        "uid": UID,
        "title": "Traffic: Alerts",
        "description": "What does an alert mean, and what is to be done about it?",
        "schemaVersion": overview["schemaVersion"],
        **{name: overview[name] for name in TAKEN_OVER},
        "time": overview["time"],
        "templating": {"list": []},
        "annotations": {"list": overview["annotations"]["list"][:1]},
        "links": overview["links"],
        "panels": shown,
    }


def write() -> None:
    """Write the dashboard anew."""
    text = json.dumps(runbook(), indent=2, ensure_ascii=False) + "\n"
    (DASHBOARDS / f"{UID}.json").write_text(text)


if __name__ == "__main__":
    write()
