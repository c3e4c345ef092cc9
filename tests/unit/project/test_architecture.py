"""Which module may know what: decisions are pure, and the packages meet in few places."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.rows import for_each

ROOT = Path(__file__).parents[3]
PURE = (
    "collector/agent/requests.py",
    "collector/agent/config/settings.py",
    "collector/agent/state/counters.py",
    "collector/agent/state/deltas.py",
    "collector/agent/relay/routes.py",
    "collector/agent/config/users.py",
    "collector/reports/billing.py",
    "collector/reports/decode.py",
    "collector/client/answers.py",
    "collector/client/sending/delivery.py",
    "collector/client/outbox.py",
    "collector/runtime/pace.py",
    "collector/client/receipt.py",
    "collector/client/report.py",
    "collector/client/spool/clock.py",
    "collector/reports/identity.py",
    "collector/runtime/config/__init__.py",
    "collector/runtime/config/names.py",
    "collector/runtime/config/tables.py",
    "collector/runtime/config/variables.py",
    "collector/runtime/rate_limit.py",
    "collector/runtime/http/strangers.py",
    "collector/importing/tally.py",
    "collector/importing/differences.py",
    "collector/ledger/import_amounts.py",
    "collector/importing/rows.py",
    "collector/reports/reporters.py",
    "collector/reports/report.py",
    "collector/runtime/http/retry_after.py",
    "collector/sources/__init__.py",
    "collector/sources/config.py",
    "collector/sources/retries.py",
    "collector/sources/three_x_ui.py",
    "collector/sources/uniproxy.py",
    "collector/sources/users.py",
    "marzban_bridge/quota/account.py",
    "marzban_bridge/quota/balance.py",
    "marzban_bridge/quota/trust/suspension.py",
    "marzban_bridge/quota/resets/next_plans.py",
    "marzban_bridge/api/access/bearers.py",
    "marzban_bridge/api/pages.py",
    "marzban_bridge/api/access/sign_ins.py",
    "marzban_bridge/quota/gone_accounts.py",
    "marzban_bridge/feed/ledger_runs.py",
    "marzban_bridge/quota/adoption.py",
    "marzban_bridge/quota/observe.py",
    "marzban_bridge/panels/port.py",
    "marzban_bridge/panels/users.py",
    "marzban_bridge/panels/http/answers.py",
    "marzban_bridge/quota/trust/panel_suspension.py",
    "marzban_bridge/panels/identity.py",
    "marzban_bridge/panels/names.py",
    "marzban_bridge/quota/plan.py",
    "marzban_bridge/timeseries/points.py",
    "marzban_bridge/quota/policy.py",
    "marzban_bridge/quota/restore.py",
    "marzban_bridge/quota/resets/requests.py",
    "marzban_bridge/quota/resets/detection.py",
    "marzban_bridge/panels/http/retry_after.py",
    "marzban_bridge/quota/shared.py",
    "marzban_bridge/quota/shared_quota.py",
    "marzban_bridge/quota/resets/schedule.py",
    "marzban_bridge/quota/resets/reset_all.py",
    "marzban_bridge/simulator/panel/panel.py",
    "marzban_bridge/simulator/panel/rules.py",
    "marzban_bridge/quota/typed_limits.py",
    "marzban_bridge/quota/usage.py",
    "marzban_bridge/config/webhook_secrets.py",
)
IMPURE = {
    "aiohttp",
    "asyncio",
    "fastapi",
    "httpx",
    "logging",
    "os",
    "pathlib",
    "prometheus_client",
    "pydantic",
    "requests",
    "rich",
    "socket",
    "sqlite3",
    "starlette",
    "subprocess",
    "threading",
    "time",
    "uvicorn",
}
MOST_IN_A_ROOM = 16
WALL_CLOCK = {"now", "utcnow", "today"}
SHARED = (
    "collector.schema",
    "collector.known_names",
    "collector.shared_settings",
    "collector.influx.client",
    "collector.influx.delivery",
    "collector.influx.lines",
    "collector.influx.outcome",
    "collector.runtime",
)
"""What every program stands on, the names in InfluxDB, and how it is written to: decision 0028."""
ONE_PROCESS = "marzban_bridge/cli/standalone.py"
SHARED_IN_ONE_PROCESS = (
    *SHARED,
    "collector.app",
    "collector.settings",
    "collector.errors.CollectorError",
    "collector.ledger.backend.LedgerBackend",
    "collector.ledger.engines.backend_of",
    "collector.reports.reporters.hash_key",
    "collector.sources.file.load_sources",
)


def modules(package: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py"))


PURE += tuple(modules("collector/agent/sources"))


def imported(module: str) -> set[str]:
    tree = ast.parse((ROOT / module).read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@for_each("module", PURE)
def test_a_deciding_module_imports_nothing_that_acts(module):
    roots = {name.split(".")[0] for name in imported(module)}
    assert not roots & IMPURE


@for_each("module", PURE)
def test_a_deciding_module_is_told_the_time(module):
    tree = ast.parse((ROOT / module).read_text())
    calls = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & WALL_CLOCK


def test_the_bridge_takes_from_the_collector_what_is_shared_and_all_of_that():
    taken: set[str] = set()
    for module in modules("marzban_bridge"):
        shared = SHARED_IN_ONE_PROCESS if module == ONE_PROCESS else SHARED
        for name in imported(module):
            if name.split(".")[0] == "collector":
                found = [each for each in shared if f"{name}.".startswith(f"{each}.")]
                assert found, f"{module} may not import {name}: decision 0028"
                taken.update(found)
    assert taken == set(SHARED_IN_ONE_PROCESS), "what is not taken is to be off the list"


@for_each("module", [*modules("collector"), *modules("marzban_bridge")])
def test_a_module_is_short_enough_to_be_read_at_once_and_says_what_it_is_for(module):
    text = (ROOT / module).read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))
    assert not {"utils", "helpers", "common", "manager", "base"} & set(module[:-3].split("/"))


def test_no_room_has_more_modules_than_a_reader_takes_in():
    rooms: dict[str, int] = {}
    for module in [*modules("collector"), *modules("marzban_bridge")]:
        room, _, name = module.rpartition("/")
        rooms[room] = rooms.get(room, 0) + (name != "__init__.py")
    assert {room: count for room, count in rooms.items() if count > MOST_IN_A_ROOM} == {}
