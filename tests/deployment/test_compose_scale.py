"""The overlay for several collectors fits the compose file it is laid over, and its nginx serves."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from dotenv import dotenv_values
from processes import free_port

import collector.settings
import marzban_bridge.settings
from collector.api.usage import MAX_WAIT_SECONDS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.scale.yml"
NGINX = ROOT / "provisioning" / "scale" / "nginx.conf"
TEXT = FILE.read_text()


class _Loader(yaml.SafeLoader):
    """Reads an overlay; a value that replaces instead of adding to is read as it is."""


for tag in ("!reset", "!override"):
    _Loader.add_constructor(tag, lambda loader, node: loader.construct_sequence(node))

OVERLAY = yaml.load(TEXT, _Loader)
BELOW = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = OVERLAY["services"]
NEW = sorted(set(SERVICES) - set(BELOW["services"]))


def test_there_are_three_collectors_behind_a_balancer_on_one_postgresql():
    assert NEW == ["balancer", "postgres"]
    assert SERVICES["collector"]["deploy"]["replicas"] == 3
    assert SERVICES["collector"]["ports"] == []
    assert SERVICES["balancer"]["ports"] == BELOW["services"]["collector"]["ports"]
    assert SERVICES["bridge"]["environment"]["COLLECTOR_URL"] == "http://balancer:8080"


def test_what_it_sets_is_a_setting_and_well_formed():
    for name, program in (("collector", collector), ("bridge", marzban_bridge)):
        environment = SERVICES[name]["environment"]
        known = {each.name for each in program.settings.Settings.variables()}
        assert set(environment) <= known
        filled = {k: re.sub(r"\$\{\w+:\?[^}]*\}", "a-password", v) for k, v in environment.items()}
        program.settings.Settings.from_env(filled)
    url = SERVICES["collector"]["environment"]["LEDGER_URL"]
    made = SERVICES["postgres"]["environment"]
    assert url == (
        f"postgresql://{made['POSTGRES_USER']}:{made['POSTGRES_PASSWORD']}@postgres:5432/"
        f"{made['POSTGRES_DB']}"
    )


def test_the_image_has_the_driver():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dockerfile.count("uv sync --locked --no-dev --extra postgres") == 2


def test_every_variable_of_it_is_documented_and_a_new_env_has_a_password():
    named = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    assert named <= set(dotenv_values(ROOT / ".env.example"))
    assert "POSTGRES_PASSWORD=" in (ROOT / "scripts" / "new-env.sh").read_text()


@pytest.mark.parametrize("service", NEW)
def test_what_it_adds_is_pinned_hardened_comes_back_and_is_watched(service):
    each = SERVICES[service]
    assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?", each["image"])
    assert each["restart"] == "unless-stopped"
    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+:\d+", each["user"])
    assert each["logging"]["options"]["max-size"]
    assert each["healthcheck"]["test"]


def test_what_is_mounted_is_there_and_named_volumes_are_declared():
    volumes = set(OVERLAY["volumes"]) | set(BELOW["volumes"])
    for each in SERVICES.values():
        for mount in each.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert mount.endswith(":ro")
            else:
                assert source in volumes


def test_prometheus_watches_the_same_and_every_collector():
    one = yaml.safe_load((ROOT / "provisioning/prometheus/prometheus.yml").read_text())
    many = yaml.safe_load((ROOT / "provisioning/scale/prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in many["scrape_configs"]}
    assert jobs["collector"]["dns_sd_configs"][0]["names"] == ["collector"]
    assert jobs["collector"]["dns_sd_configs"][0]["port"] == 8080
    for each in one["scrape_configs"]:
        if each["job_name"] != "collector":
            assert jobs[each["job_name"]] == each


def test_both_files_together_are_valid_to_docker_compose():
    known = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    )
    if not known or known.returncode:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "--env-file", "demo.env", "-f", "docker-compose.yml"]
    checked = subprocess.run(
        [*command, "-f", FILE.name, "config", "-q"],
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "POSTGRES_PASSWORD": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_nginx_waits_longer_than_readers_do_and_takes_the_largest_body():
    text = NGINX.read_text()
    assert int(re.findall(r"proxy_read_timeout (\d+)s", text)[0]) > MAX_WAIT_SECONDS
    largest = collector.settings.Settings().max_source_body_bytes
    assert int(re.findall(r"client_max_body_size (\d+)m", text)[0]) * 2**20 > largest


@pytest.fixture
def collectors(tmp_path, postgres):
    url = postgres.url(postgres.new_database())
    opened = []
    for number in range(3):
        home = tmp_path / str(number)
        home.mkdir()
        opened.append(CollectorProcess(home, {"LEDGER_URL": url}))
        opened[-1].start()
    yield opened
    for each in opened:
        each.kill()


@pytest.fixture
def balancer(tmp_path, collectors):
    """The nginx of the overlay, with loopback addresses where Docker's names would be."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    port, home = free_port(), tmp_path / "nginx"
    home.mkdir()
    servers = "".join(
        f"server 127.0.0.1:{each.port} max_fails=1 fail_timeout=2s;\n" for each in collectors
    )
    text = NGINX.read_text()
    for given, ours in (
        (r"server collector:8080 resolve [^;]*;", servers),
        (r"resolver [^;]*;", ""),
        (r"listen 8080;", f"listen 127.0.0.1:{port};"),
        (r"/tmp/", f"{home}/"),
        (r"/dev/stderr", f"{home}/error.log"),
    ):
        text, count = re.subn(given, ours, text)
        assert count
    (home / "nginx.conf").write_text(text)
    who = "user root; " if os.geteuid() == 0 else ""  # its folders are the user's of the tests
    command = ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-g", f"{who}daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers():
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/healthz").status_code == 200
        return False

    poll("nginx listens", answers)
    yield url, home
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_through_nginx_reports_are_taken_while_a_collector_is_gone(collectors, balancer):
    url, home = balancer
    report = {"server": "s", "port": 1, "protocol": "p", "bytes_uploaded": 1, "bytes_downloaded": 0}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(timeout=20) as client:
        for number in range(60):
            if number == 20:
                collectors[1].kill()
            body = report | {"user_token": "alice", "report_id": str(number)}
            answer = client.post(f"{url}/v1/reports", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        largest = [{**report, "user_token": f"u{n}", "server": "s" * 250} for n in range(10_000)]
        assert client.post(f"{url}/v1/reports", json=largest, headers=headers).status_code == 200
        as_admin = {"authorization": f"Bearer {ADMIN_KEY}"}
        found = client.get(f"{url}/v1/usage/alice", headers=as_admin).json()
        assert found["upload_bytes"] == 60
        head = client.get(f"{url}/v1/usage/changes", headers=as_admin).json()["head"]
        waited = client.get(f"{url}/v1/usage/changes?after={head}&wait=2", headers=as_admin)
        assert waited.json()["changes"] == []
        client.post(f"{url}/v1/sources/3x-ui/{KEY}", content=b"{}")
    assert KEY not in "".join(each.read_text() for each in home.glob("*.log"))
