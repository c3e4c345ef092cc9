"""What each role of Grafana can do by hand: the document says what the script expects."""

from __future__ import annotations

import re
import runpy

from tests.support.grafana.grafana_files import ROOT


def script():
    """Return the names of the script; nothing is imported, which would leave a cache beside it."""
    return runpy.run_path(str(ROOT / "scripts" / "grafana-roles.py"))


def test_the_document_says_what_the_script_expects():
    roles = script()
    section = (
        (ROOT / "docs" / "security.md").read_text().split("roles of Grafana can do by hand\n")[1]
    )
    rows = re.findall(r"^\| (.+) \|$", section.split("\n## ")[0], re.MULTILINE)
    head, *table = [tuple(each.split(" | ")) for each in rows]
    assert head == ("by hand", *roles["ROLES"])
    assert {what: tuple(can) for what, *can in table} == roles["EXPECTED"]


def test_no_role_may_change_what_counts_and_only_a_named_login_may_reset():
    expected = script()["EXPECTED"]
    allowed = {what for what, can in expected.items() if "yes" in can}
    assert allowed == {
        "press a button (a reset), login in BRIDGE_ACTION_LOGINS",
        "read InfluxDB",
        "read Prometheus",
    }


def test_the_workflow_tries_it():
    assert "scripts/grafana-roles.py" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
