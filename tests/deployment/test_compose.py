"""The compose file says what the programs need to hear, gives nobody more, and fits the rest."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

import collector.cli.main
import collector.settings
import marzban_bridge.cli.main
import marzban_bridge.config.settings
from collector.influx.tokens import GRANTS, TOKEN_FILE
from collector.known_names import NAMES
from collector.runtime.config.variables import secrets_of
from marzban_bridge.notifications.contact_points import smtp_values
from marzban_bridge.notifications.settings import NotificationSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
STACK = yaml.safe_load(TEXT)
SERVICES = STACK["services"]
IMAGE = SERVICES["collector"]["image"]
OURS = {name for name, each in SERVICES.items() if each["image"] == IMAGE}
SECRETS = STACK["secrets"]
PROGRAMS = {"collector": collector.settings, "bridge": marzban_bridge.config.settings}
NOT_PASSED = {
    # the last ones: its InfluxDB is a 2.x of its own
    "collector": {
        *("INFLUXDB_TOKEN", "INFLUXDB_ADMIN_TOKEN", "INFLUXDB_PREPARES_BUCKETS", "INFLUXDB_KIND")
    },
    "bridge": {"INFLUXDB_TOKEN", "INFLUXDB_KIND"},
}
EXAMPLE = dotenv_values(ROOT / ".env.example")
DEMO = dotenv_values(ROOT / "demo.env")


def environment(service: str) -> dict[str, str | None]:
    """Return what a service is passed; None passes a variable of .env through."""
    return SERVICES[service].get("environment", {})


def variables(program: str) -> set[str]:
    found = {each.name for each in PROGRAMS[program].Settings.variables()}
    if program == "bridge":  # `doctor` tries where alerts go
        found |= {each.name for each in NotificationSettings.variables()} - {"GRAFANA_ROOT_URL"}
    return found


def test_what_writes_contact_points_is_given_its_settings_and_nothing_else():
    passed = set(environment("alerting")) - {f"{each}_FILE" for each in in_file("alerting")}
    known = {each.name for each in NotificationSettings.variables()}
    assert passed == known - in_file("alerting")
    assert in_file("alerting") == secrets_of(NotificationSettings)


def test_grafana_reads_alerting_and_mail_settings_from_what_was_checked():
    volumes = dict(each.split(":")[:2] for each in SERVICES["alerting"]["volumes"])
    command = SERVICES["alerting"]["command"]
    assert f"--to={volumes['alerting']}" in command
    assert f"--smtp={volumes['smtp']}" in command
    assert f"--rules={volumes['./provisioning/alerting']}" in command
    mounts = dict(each.split(":")[:2] for each in SERVICES["grafana"]["volumes"])
    assert mounts["alerting"] == "/etc/grafana/provisioning/alerting"
    written = smtp_values(NotificationSettings())
    assert {name: value for name, value in environment("grafana").items() if "SMTP" in name} == {
        f"GF_SMTP_{each.upper()}__FILE": f"{mounts['smtp']}/{each}" for each in written
    }
    waits = SERVICES["grafana"]["depends_on"]["alerting"]["condition"]
    assert waits == "service_completed_successfully"


def in_file(program: str) -> set[str]:
    """Return the secrets that a program is given as files, by their settings."""
    return {each.upper() for each in SERVICES[program]["secrets"]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_reaches_its_program_and_nothing_else_does(program):
    passed = set(environment(program)) - {f"{each}_FILE" for each in in_file(program)}
    assert passed == variables(program) - in_file(program) - NOT_PASSED[program]


@pytest.mark.parametrize("program", [*PROGRAMS, "init", "alerting"])
def test_a_secret_is_a_file_and_in_no_environment(program):
    for name in in_file(program):
        assert environment(program)[f"{name}_FILE"] == f"/run/secrets/{name.lower()}"
        assert name not in environment(program)
    addresses = {"LEDGER_URL", "BRIDGE_STORE"}  # those of files, here
    assert not (NAMES.may_be_in_file - addresses) & set(environment(program))


def test_no_secret_is_in_the_environment_of_any_container():
    assert not re.findall(
        r"\$\{?\w*(?:SECRET|TOKEN|PASSWORD|ADMIN_KEY|REPORTER_KEYS)\b",
        TEXT.replace("DEMO_WEBHOOK_SECRET", ""),
    )
    assert environment("influxdb")["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]


def test_every_secret_is_a_file_that_the_script_makes_and_the_demo_has(tmp_path):
    used = {name for each in SERVICES.values() for name in each.get("secrets", [])}
    assert used == set(SECRETS)
    script = (ROOT / "scripts" / "new-env.sh").read_text()
    for name, each in SECRETS.items():
        assert each == {"file": f"${{SECRETS_DIR:-./secrets}}/{name}"}
        assert name.upper() in script
        assert (ROOT / DEMO["SECRETS_DIR"] / name).is_file()


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
    assert named | passed_through <= set(EXAMPLE) | {"DEMO_REPORTER_KEY", "DEMO_WEBHOOK_SECRET"}


def test_the_demo_sets_all_that_is_required():
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required <= {name for name, value in DEMO.items() if value}
    assert demo_secret("collector_reporter_keys") == f"demo:{DEMO['DEMO_REPORTER_KEY']}"
    assert demo_secret("bridge_webhook_secret") == DEMO["DEMO_WEBHOOK_SECRET"]


def demo_secret(name: str) -> str:
    return (ROOT / DEMO["SECRETS_DIR"] / name).read_text().strip()


def test_the_operators_token_of_influxdb_goes_to_influxdb_and_its_init_alone():
    holders = {
        name for name, each in SERVICES.items() if "influxdb_admin_token" in str(each).lower()
    }
    assert holders == {"influxdb", "init"}


def test_one_service_builds_the_image_of_all():
    assert [name for name, each in SERVICES.items() if "build" in each] == ["collector"]
    assert {SERVICES[name]["pull_policy"] for name in OURS - {"collector"}} == {"never"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"marzban-external-traffic:{version}" == IMAGE


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_no_container_can_take_the_machine_for_itself(service):
    each = SERVICES[service]
    assert each["mem_limit"]
    assert each["cpus"] == 1, "more than one is refused where there is one"
    assert each["pids_limit"]


def test_grafana_reaches_influxdb_prometheus_and_the_bridge_alone():
    networks = {name: set(each["networks"]) for name, each in SERVICES.items()}
    assert {name for name, of in networks.items() if of & networks["grafana"]} == {
        "grafana",
        "influxdb",
        "prometheus",
        "bridge",
    }
    assert STACK["networks"]["backend"] == {"internal": True}
    for one, other in (("bridge", "collector"), ("init", "influxdb"), ("collector", "influxdb")):
        assert networks[one] & networks[other]
    for name in ("collector", "bridge"):  # two would be scraped twice by docker-compose.scale.yml
        assert len(networks["prometheus"] & networks[name]) == 1


@pytest.mark.parametrize("service", PROGRAMS)
def test_a_panel_on_this_machine_has_a_name(service):
    assert SERVICES[service]["extra_hosts"] == ["host.docker.internal:host-gateway"]


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_container_is_given_time_to_end(service):
    assert SERVICES[service]["stop_grace_period"]


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
    token = environment("grafana")["GF_TRAFFIC_INFLUXDB_TOKEN__FILE"]
    assert token == f"/tokens/grafana/{TOKEN_FILE}"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_containers_are_read_only_and_may_do_nothing_they_need_not(service):
    each = SERVICES[service]
    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert each["tmpfs"] == ["/tmp"]


def test_the_image_runs_as_nobody_special_and_is_pinned():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (\d+):\1$", dockerfile, re.MULTILINE)
    assert dockerfile.index("USER ") < dockerfile.index("CMD ")
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-slim-\w+$", dockerfile, re.MULTILINE)
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
    assert each["restart"] == (
        "on-failure:3" if service in {"init", "alerting"} else "unless-stopped"
    )
    assert each["logging"]["options"]["max-size"]
    assert service in {"init", "alerting"} or each["healthcheck"]["test"]


@pytest.mark.parametrize(
    ("status", "health", "is_healthy"),
    [
        (200, {"status": "ok"}, True),
        (503, {"status": "following", "reasons": ["a leads"]}, True),
        (503, {"status": "unready", "reasons": ["panel: refuses the sign-in"]}, False),
    ],
)
def test_the_bridge_is_unhealthy_while_it_is_not_ready_unless_it_follows(
    status, health, is_healthy
):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(health).encode())

        def log_message(self, *_):
            pass

    kind, *words = SERVICES["bridge"]["healthcheck"]["test"]
    assert (kind, words[:2]) == ("CMD", ["python", "-c"])
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        code = (
            words[2]
            .replace(":8090", f":{server.server_address[1]}")
            .replace("timeout=3", "timeout=60")
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert (ended.returncode == 0) == is_healthy
    assert ("refuses the sign-in" in ended.stderr) != is_healthy


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
    variable = providers["providers"][0]["options"]["path"]
    path = environment("grafana")[variable[2:-1]]
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
