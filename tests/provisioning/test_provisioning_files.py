"""Datasources, the dashboards provider and Prometheus' configuration."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from tests.support.grafana.grafana_files import PROVISIONING, ROOT

PROMETHEUS_CONFIG = PROVISIONING / "prometheus" / "prometheus.yml"


def load(*path):
    return yaml.safe_load(PROVISIONING.joinpath(*path).read_text())


def datasources():
    return {each["uid"]: each for each in load("datasources", "datasources.yaml")["datasources"]}


def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_there_is_one_default_datasource_and_all_are_proxied():
    found = datasources()
    assert list(found) == ["influxdb", "prometheus", "bridge-actions"]
    assert [uid for uid, each in found.items() if each["isDefault"]] == ["influxdb"]
    for each in found.values():
        assert each["access"] == "proxy"
        assert each["editable"] is False


def test_influxdb_is_read_with_a_token_from_a_file():
    influx = datasources()["influxdb"]
    assert influx["jsonData"]["dbName"] == influx["database"] == "traffic"
    assert influx["jsonData"]["httpMode"] == "POST"
    assert influx["jsonData"]["httpHeaderName1"] == "Authorization"
    value = influx["secureJsonData"]["httpHeaderValue1"]
    name = re.fullmatch(r"Token \$\{(.+)\}", value)[1]
    path = compose()["grafana"]["environment"][f"{name}__FILE"]
    mounts = [each.split(":")[1] for each in compose()["grafana"]["volumes"]]
    assert any(path.startswith(f"{mount}/") for mount in mounts), path


def test_addresses_are_those_of_the_stack():
    environment = compose()["grafana"]["environment"]
    addresses = [environment[each["url"][2:-1]] for each in datasources().values()]
    targets = [
        target
        for job in load("prometheus", "prometheus.yml")["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    ]
    hosts = {re.sub(r"^http://|:\d+$", "", each) for each in [*addresses, *targets]}
    assert hosts - {"localhost"} <= compose().keys()


def test_every_variable_in_provisioning_is_documented_and_passed_to_grafana():
    names = set()
    for path in PROVISIONING.rglob("*.yaml"):
        if path.parent.name != "alerting":  # there `$` belongs to templates
            names |= set(re.findall(r"\$\{(\w+)\}", path.read_text()))
    assert names == {
        *("INFLUXDB_ADDRESS", "PROMETHEUS_ADDRESS", "BRIDGE_ADDRESS", "DASHBOARDS_PATH"),
        *("GF_TRAFFIC_INFLUXDB_TOKEN", "GF_TRAFFIC_ACTION_TOKEN"),
    }
    given = {each.removesuffix("__FILE") for each in compose()["grafana"]["environment"]}
    assert names <= given
    document = (
        (ROOT / "docs" / "dashboards.md").read_text().split("\n## A Grafana of your own\n")[1]
    )
    assert set(re.findall(r"^([A-Z_]+)=", document, re.MULTILINE)) >= names


def test_the_provider_reads_the_folder_that_is_mounted():
    [provider] = load("dashboards", "dashboards.yaml")["providers"]
    assert (provider["folder"], provider["folderUid"]) == ("VPN traffic", "vpn-traffic")
    assert provider["allowUiUpdates"] is False
    mounts = dict(each.split(":")[:2] for each in compose()["grafana"]["volumes"])
    path = compose()["grafana"]["environment"][provider["options"]["path"][2:-1]]
    assert mounts["./grafana/dashboards"] == path


def test_prometheus_watches_every_part():
    jobs = [each["job_name"] for each in load("prometheus", "prometheus.yml")["scrape_configs"]]
    assert jobs == ["collector", "bridge", "influxdb", "prometheus", "grafana"]


def test_prometheus_takes_its_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on the PATH (Debian: apt install prometheus)")
    command = ["promtool", "check", "config", str(PROMETHEUS_CONFIG)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
