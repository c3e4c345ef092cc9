"""The compose file says what the programs need to hear, gives nobody more, and fits the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

import collector.cli.main
import collector.settings
import marzban_bridge.cli.main
import marzban_bridge.config.settings
from collector.influx.tokens import GRANTS, TOKEN_FILE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
STACK = yaml.safe_load(TEXT)
SERVICES = STACK["services"]
OURS = {name for name, each in SERVICES.items() if "build" in each}
PROGRAMS = {"collector": collector.settings, "bridge": marzban_bridge.config.settings}
NOT_PASSED = {
    # the last: its InfluxDB is a 2.x of its own
    "collector": {"INFLUXDB_TOKEN", "INFLUXDB_ADMIN_TOKEN", "INFLUXDB_PREPARES_BUCKETS"},
    "bridge": {"INFLUXDB_TOKEN"},
}
EXAMPLE = dotenv_values(ROOT / ".env.example")
DEMO = dotenv_values(ROOT / "demo.env")


def environment(service: str) -> dict[str, str | None]:
    """Return what a service is passed; None passes a variable of .env through."""
    return SERVICES[service].get("environment", {})


def variables(program: str) -> set[str]:
    return {each.name for each in PROGRAMS[program].Settings.variables()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_reaches_its_program_and_nothing_else_does(program):
    assert set(environment(program)) == variables(program) - NOT_PASSED[program]


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_the_compose_file_sets_itself_is_well_formed(program):
    fixed = {
        name: value
        for name, value in environment(program).items()
        if value is not None and "$" not in value
    }
    PROGRAMS[program].Settings.from_env(fixed)


@pytest.mark.parametrize("env", [EXAMPLE, DEMO], ids=["example", "demo"])
def test_the_values_of_an_env_file_are_well_formed(env):
    for program in PROGRAMS.values():
        program.Settings.from_env(env)


def test_every_variable_of_the_compose_file_is_documented():
    named = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    passed_through = {
        name for each in SERVICES for name, value in environment(each).items() if value is None
    }
    assert named | passed_through <= set(EXAMPLE) | {"DEMO_REPORTER_KEY"}


def test_the_demo_sets_all_that_is_required():
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required <= {name for name, value in DEMO.items() if value}
    assert DEMO["COLLECTOR_REPORTER_KEYS"] == f"demo:{DEMO['DEMO_REPORTER_KEY']}"


def test_the_operators_token_of_influxdb_goes_to_influxdb_and_its_init_alone():
    holders = {name for name, each in SERVICES.items() if "INFLUXDB_ADMIN_TOKEN" in str(each)}
    assert holders == {"influxdb", "init"}


def test_each_program_is_given_the_file_with_its_own_token_and_no_other():
    for grant in GRANTS:
        volume = f"tokens-{grant.program}"
        folder = f"/tokens/{grant.program}"
        holders = {
            name: [each for each in service.get("volumes", []) if each.startswith(f"{volume}:")]
            for name, service in SERVICES.items()
        }
        assert {name: mounts for name, mounts in holders.items() if mounts} == {
            "init": [f"{volume}:{folder}"],
            grant.program: [f"{volume}:{folder}:ro"],
        }
        if grant.program in PROGRAMS:
            assert environment(grant.program)["INFLUXDB_TOKEN_FILE"] == f"{folder}/{TOKEN_FILE}"
    sources = (ROOT / "provisioning" / "datasources" / "datasources.yaml").read_text()
    assert f"$__file{{/tokens/grafana/{TOKEN_FILE}}}" in sources


@pytest.mark.parametrize("service", sorted(OURS))
def test_our_containers_are_read_only_and_may_do_nothing_they_need_not(service):
    each = SERVICES[service]
    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert each["tmpfs"] == ["/tmp"]


def test_the_image_runs_as_nobody_special_and_is_pinned():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (\d+):\1$", dockerfile, re.MULTILINE)
    assert dockerfile.index("USER ") < dockerfile.index("CMD ")
    assert re.search(r"^ARG PYTHON=3\.\d+-slim-\w+$", dockerfile, re.MULTILINE)
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE))
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert {name for each in copied for name in each.split()} <= allowed


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_image_is_pinned(service):
    image = SERVICES[service]["image"]
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize(
    "service", sorted(name for name, each in SERVICES.items() if "profiles" not in each)
)
def test_every_service_comes_back_by_itself_and_its_logs_are_bounded(service):
    each = SERVICES[service]
    assert each["restart"] == ("on-failure:10" if service == "init" else "unless-stopped")
    assert each["logging"]["options"]["max-size"]
    assert service == "init" or each["healthcheck"]["test"]


@pytest.mark.parametrize("service", ["collector", "bridge"])
def test_neither_reports_nor_limits_wait_for_influxdb(service):
    waited_for = set(SERVICES[service].get("depends_on", {}))
    assert not waited_for & {"influxdb", "init", "grafana", "prometheus"}


def test_nothing_is_published_beyond_this_machine_unless_the_operator_says_so():
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert set(published) == {"collector", "bridge", "grafana"}
    for ports in published.values():
        assert re.fullmatch(r"\$\{[A-Z]+_PUBLISH:-127\.0\.0\.1:(\d+)\}:\1", ports[0])


def test_what_is_mounted_from_here_is_here_and_is_where_it_is_looked_for():
    for each in SERVICES.values():
        for mount in each.get("volumes", []):
            source, _, rest = mount.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert rest.endswith(":ro")
            else:
                assert source in STACK["volumes"]
    providers = yaml.safe_load((ROOT / "provisioning/dashboards/dashboards.yaml").read_text())
    path = providers["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana/dashboards" / Path(home).name).exists()
    assert str(Path(home).parent) == path


def test_whoever_is_asked_by_name_is_a_service_that_listens_there():
    ports = {
        "collector": 8080,
        "bridge": 8090,
        "influxdb": 8086,
        "grafana": 3000,
        "prometheus": 9090,
    }
    texts = [
        TEXT,
        (ROOT / "provisioning/datasources/datasources.yaml").read_text(),
        "http://" + " http://".join(_targets()),
    ]
    for host, port in re.findall(r"http://([a-z]+):(\d+)", " ".join(texts)):
        if host != "localhost":
            assert ports[host] == int(port)


def _targets() -> list[str]:
    config = yaml.safe_load((ROOT / "provisioning/prometheus/prometheus.yml").read_text())
    return [
        target
        for job in config["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]


@pytest.mark.parametrize("service", sorted(OURS))
def test_the_commands_are_ours(service):
    program, *arguments = [
        re.sub(r"\$\{\w+:-\}", "value", each) for each in SERVICES[service]["command"]
    ]
    parsers = {
        "traffic-collector": collector.cli.main._parser,
        "marzban-bridge": lambda: marzban_bridge.cli.main._parser(arguments),
    }
    assert parsers[program]().parse_args(arguments).run


def test_the_file_is_valid_to_docker_compose():
    known = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    )
    if not known or known.returncode:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "--env-file", "demo.env", "--profile", "demo", "config", "-q"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
