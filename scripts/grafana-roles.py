#!/usr/bin/env -S uv run python
"""Tries by hand what each role of Grafana can do through its datasources, on a stack for trials.

    scripts/grafana-roles.py --grafana http://localhost:3000 --password admin
Makes a user of each role, asks what `EXPECTED` lists with its sign-in, and removes the user again.
Ends with 0 when every answer is as in the table, which docs/security.md shows.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

PROXY = "/api/datasources/proxy"
FIRST_WITH_UID = 10
ROLES = ("Viewer", "Editor", "Admin")
YES, NO = "yes", "no"
EXPECTED = {
    "press a button (a reset), login in BRIDGE_ACTION_LOGINS": ("-", "-", YES),
    "press a button (a reset), another login": (NO, NO, NO),
    "call the bridge's admin API": (NO, NO, NO),
    "read InfluxDB": (YES, YES, YES),
    "write to InfluxDB": (NO, NO, NO),
    "delete in InfluxDB": (NO, NO, NO),
    "drop a measurement in InfluxDB": (NO, NO, NO),
    "read Prometheus": (YES, YES, YES),
    "delete series in Prometheus": (NO, NO, NO),
    "see a secret of a datasource": (NO, NO, NO),
    "change a dashboard of this project": (NO, NO, NO),
    "change an alert rule of this project": (NO, NO, NO),
}
"""For a Viewer, an Editor, an Admin who signs in to Grafana and calls it without a dashboard."""


@dataclass(frozen=True)
class Signed:
    """One who is signed in to Grafana."""

    client: httpx.Client
    bridge: str
    """The way to the bridge: Grafana 9 proxies no uid with a hyphen by that uid."""

    def asks(self, method: str, path: str, **arguments: object) -> httpx.Response:
        """Return Grafana's answer."""
        return self.client.request(method, path, **arguments)  # type: ignore[arg-type]


def attempts(one: Signed) -> dict[str, bool]:
    """Return what this one could do, by the names of `EXPECTED`."""
    reset = one.asks("POST", f"{one.bridge}/actions/users/no-user-of-the-trial/reset")
    # 404: the login may, and the user does not exist
    may_press = reset.status_code in {200, 404}
    influx, prometheus = f"{PROXY}/uid/influxdb", f"{PROXY}/uid/prometheus"
    select = {"db": "traffic", "q": 'SELECT "text" FROM "raw"."events" LIMIT 1'}
    drop = {"db": "traffic", "q": 'DROP MEASUREMENT "of_the_trial"'}
    bucket = {"org": "vpn", "bucket": "traffic/raw"}
    span = {"start": "1970-01-01T00:00:00Z", "stop": "1970-01-02T00:00:00Z"}
    dropped = one.asks("POST", f"{influx}/query", data=drop)
    listed = one.asks("GET", "/api/datasources")
    dashboard = one.asks("GET", "/api/dashboards/uid/traffic-overview").json()["dashboard"]
    saved = {"dashboard": dashboard, "overwrite": True}
    rule = one.asks("GET", "/api/v1/provisioning/alert-rules/bridge-down")
    changed = one.asks("PUT", "/api/v1/provisioning/alert-rules/bridge-down", json={"title": "x"})
    return {
        "press a button (a reset), another login": may_press,
        "call the bridge's admin API": one.asks("GET", f"{one.bridge}/v1/users").is_success,
        "read InfluxDB": one.asks("POST", f"{influx}/query", data=select).is_success,
        "write to InfluxDB": one.asks(
            "POST", f"{influx}/api/v2/write", params=bucket, content=b"of_the_trial x=1 1"
        ).is_success,
        "delete in InfluxDB": one.asks(
            "POST", f"{influx}/api/v2/delete", params=bucket, json=span
        ).is_success,
        "drop a measurement in InfluxDB": dropped.is_success and "error" not in dropped.text,
        "read Prometheus": one.asks(
            "GET", f"{prometheus}/api/v1/query", params={"query": "up"}
        ).is_success,
        "delete series in Prometheus": one.asks(
            "POST", f"{prometheus}/api/v1/admin/tsdb/delete_series", params={"match[]": "of_trial"}
        ).is_success,
        "see a secret of a datasource": "httpHeaderValue1"
        in str([each.get("secureJsonData") for each in listed.json()] if listed.is_success else ""),
        "change a dashboard of this project": one.asks(
            "POST", "/api/dashboards/db", json=saved
        ).is_success,
        "change an alert rule of this project": rule.is_success and changed.is_success,
    }


@contextmanager
def signed_in(grafana: str, login: str, password: str) -> Iterator[Signed]:
    """Sign in; end where Grafana does not let this one in."""
    with httpx.Client(base_url=grafana, timeout=30, trust_env=False) as client:
        answer = client.post("/login", json={"user": login, "password": password})
        if not answer.is_success:
            sys.exit(f"Grafana does not let {login} in: {answer.status_code}")
        bridge = f"{PROXY}/uid/bridge-actions"
        if int(client.get("/api/health").json()["version"].split(".")[0]) < FIRST_WITH_UID:
            number = client.get("/api/datasources/uid/bridge-actions").json()["id"]
            bridge = f"{PROXY}/{number}"
        yield Signed(client, bridge)


@contextmanager
def user_of(role: str, admin: Signed, grafana: str) -> Iterator[Signed]:
    """Make a user of a role, and remove it in the end."""
    login, password = f"trial-{role.lower()}-{secrets.token_hex(3)}", secrets.token_urlsafe(16)
    body = {"login": login, "password": password, "email": f"{login}@example.com", "OrgId": 1}
    made = admin.asks("POST", "/api/admin/users", json=body)
    if not made.is_success:
        sys.exit(f"{login} could not be made: {made.status_code} {made.text[:200]}")
    number = made.json()["id"]
    try:
        admin.asks("PATCH", f"/api/org/users/{number}", json={"role": role})
        with signed_in(grafana, login, password) as one:
            yield one
    finally:
        admin.asks("DELETE", f"/api/admin/users/{number}")


def run(grafana: str, login: str, password: str) -> int:
    """Print what each role could do; return how many answers were not as expected."""
    listed = "press a button (a reset), login in BRIDGE_ACTION_LOGINS"
    with signed_in(grafana, login, password) as admin:
        found = {listed: {"Admin": attempts(admin)["press a button (a reset), another login"]}}
        for role in ROLES:
            with user_of(role, admin, grafana) as one:
                for what, is_done in attempts(one).items():
                    found.setdefault(what, {})[role] = is_done
    faults = 0
    for what, expected in EXPECTED.items():
        shown = tuple(
            "-" if role not in found[what] else YES if found[what][role] else NO for role in ROLES
        )
        faults += shown != expected
        print(f"{'ok   ' if shown == expected else 'WRONG'} {what}: {', '.join(shown)}")
    return faults


def main() -> int:
    """Read the arguments and try everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grafana", required=True, metavar="URL")
    parser.add_argument("--login", default="admin", help="one in BRIDGE_ACTION_LOGINS")
    parser.add_argument("--password", required=True)
    arguments = parser.parse_args()
    return 1 if run(arguments.grafana.rstrip("/"), arguments.login, arguments.password) else 0


if __name__ == "__main__":
    sys.exit(main())
