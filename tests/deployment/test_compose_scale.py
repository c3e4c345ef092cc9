"""The overlay for several collectors and two bridges fits the compose file, and its nginx serves."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from dotenv import dotenv_values

import collector.settings
import marzban_bridge.config.settings
from collector.api.usage import MAX_WAIT_SECONDS
from marzban_bridge.api.webhooks import MAX_BODY_BYTES
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.ports import free_port

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


def test_there_are_three_collectors_and_two_bridges_behind_a_balancer_on_one_postgresql():
    assert NEW == ["balancer", "postgres"]
    assert SERVICES["collector"]["deploy"]["replicas"] == 3
    assert SERVICES["collector"]["ports"] == []
    assert SERVICES["bridge"]["deploy"]["replicas"] == 2
    assert SERVICES["bridge"]["ports"] == []
    assert SERVICES["balancer"]["ports"] == [
        *BELOW["services"]["collector"]["ports"],
        *BELOW["services"]["bridge"]["ports"],
    ]
    assert SERVICES["bridge"]["environment"]["COLLECTOR_URL"] == "http://balancer:8080"
    assert SERVICES["grafana"]["environment"]["BRIDGE_ADDRESS"] == "http://balancer:8090"
    assert "BRIDGE_ADDRESS" in BELOW["services"]["grafana"]["environment"]


def test_what_it_sets_is_a_setting_and_well_formed():
    for name, program in (
        ("collector", collector.settings),
        ("bridge", marzban_bridge.config.settings),
    ):
        environment = SERVICES[name]["environment"]
        known = {each.name for each in program.Settings.variables()}
        assert {each.removesuffix("_FILE") for each in environment} <= known
        program.Settings.from_env({k: v for k, v in environment.items() if k in known})
        # what it replaces does not contradict the file that it names
        own = {"collector": "LEDGER_URL", "bridge": "BRIDGE_STORE"}[name]
        assert environment[own] == ""
        assert environment[f"{own}_FILE"] == "/run/secrets/postgres_url"
        assert {*BELOW["services"][name]["secrets"], "postgres_url"} == set(
            SERVICES[name]["secrets"]
        )
        assert set(BELOW["services"][name]["networks"]) | {"database"} == set(
            SERVICES[name]["networks"]
        )
    made = SERVICES["postgres"]["environment"]
    demo = ROOT / "provisioning" / "demo-secrets"
    assert (demo / "postgres_url").read_text().strip() == (
        f"postgresql://{made['POSTGRES_USER']}:{(demo / 'postgres_password').read_text().strip()}"
        f"@postgres:5432/{made['POSTGRES_DB']}"
    )


def test_networks_join_what_needs_each_other_and_nothing_else():
    networks = {name: set(each["networks"]) for name, each in BELOW["services"].items()}
    networks |= {
        name: set(each["networks"]) for name, each in SERVICES.items() if "networks" in each
    }
    assert networks["postgres"] == {"database"}
    assert {name for name, of in networks.items() if "database" in of} == {
        "postgres",
        "collector",
        "bridge",
    }
    # more than one, and the balancer would ask each bridge under several addresses
    for name in ("bridge", "collector"):
        assert len(networks["balancer"] & networks[name]) == 1
        assert len(networks["prometheus"] & networks[name]) == 1
    assert networks["grafana"] & networks["balancer"] == {"actions"}
    assert not networks["grafana"] & networks["postgres"]


def test_the_image_has_the_driver():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dockerfile.count("uv sync --locked --no-dev --extra postgres") == 2


def test_every_variable_of_it_is_documented_and_a_new_env_has_a_password():
    named = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    assert named <= set(dotenv_values(ROOT / ".env.example"))
    script = (ROOT / "scripts" / "new-env.sh").read_text()
    assert "POSTGRES_PASSWORD" in script
    assert "postgres_url" in script


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
    assert each["mem_limit"]
    assert each["cpus"]
    assert each["pids_limit"]


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


def test_prometheus_watches_the_same_and_every_collector_and_bridge():
    one = yaml.safe_load((ROOT / "provisioning/prometheus/prometheus.yml").read_text())
    many = yaml.safe_load((ROOT / "provisioning/scale/prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in many["scrape_configs"]}
    for name, port in (("collector", 8080), ("bridge", 8090)):
        assert jobs[name]["dns_sd_configs"][0]["names"] == [name]
        assert jobs[name]["dns_sd_configs"][0]["port"] == port
    for each in one["scrape_configs"]:
        if each["job_name"] not in {"collector", "bridge"}:
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
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_nginx_waits_longer_than_readers_do_and_takes_the_largest_body():
    text = NGINX.read_text()
    assert int(re.findall(r"proxy_read_timeout (\d+)s", text)[0]) > MAX_WAIT_SECONDS
    largest = collector.settings.Settings().max_source_body_bytes
    sizes = [int(each) * 2**20 for each in re.findall(r"client_max_body_size (\d+)m", text)]
    assert sizes[0] > largest
    assert sizes[1] > MAX_BODY_BYTES


@pytest.fixture
def collectors(tmp_path, postgres):
    url = postgres.url(postgres.new_database())
    opened = []
    with contextlib.ExitStack() as stack:
        for number in range(3):
            home = tmp_path / str(number)
            home.mkdir()
            opened.append(CollectorProcess(home, {"LEDGER_URL": url}))
            stack.callback(opened[-1].kill)
            opened[-1].start()
        yield opened


@contextlib.contextmanager
def nginx(home, collector_ports, bridge_ports):
    """The nginx of the overlay, with loopback addresses where Docker's names would be."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    ports = free_port(), free_port()
    home.mkdir()

    def servers(given, options):
        return "".join(f"server 127.0.0.1:{port} {options};\n" for port in given)

    text = NGINX.read_text()
    for given, ours in (
        (
            r"server collector:8080 resolve [^;]*;",
            servers(collector_ports, "max_fails=1 fail_timeout=2s"),
        ),
        (r"server bridge:8090 resolve ([^;]*);", servers(bridge_ports, r"\1")),
        (r"resolver [^;]*;", ""),
        (r"listen 8080;", f"listen 127.0.0.1:{ports[0]};"),
        (r"listen 8090;", f"listen 127.0.0.1:{ports[1]};"),
        (r"/tmp/", f"{home}/"),
        (r"/dev/stderr", f"{home}/error.log"),
    ):
        text, count = re.subn(given, ours, text)
        assert count
    (home / "nginx.conf").write_text(text)
    who = "user root; " if os.geteuid() == 0 else ""  # its folders are the user's of the tests
    command = ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-g", f"{who}daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    urls = [f"http://127.0.0.1:{port}" for port in ports]

    def answers():
        with contextlib.suppress(httpx.TransportError):
            return all(httpx.get(f"{url}/healthz").status_code for url in urls)
        return False

    try:
        poll("nginx listens", answers)
        yield urls
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def balancer(tmp_path, collectors):
    home = tmp_path / "nginx"
    with nginx(home, [each.port for each in collectors], [1]) as (url, _):
        yield url, home


class FakeBridge(ThreadingHTTPServer):
    """Answers what it is asked with one status, and counts; or breaks the line instead."""

    def __init__(self, status):
        self.status = status
        self.asked = Counter()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked[self.command] += 1
        if not self.server.status:
            return
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - its base's names

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("path", ["/v1/users/alice/reset", "/webhooks/marzban"])
def test_through_nginx_every_request_reaches_the_bridge_that_leads_and_once(tmp_path, path):
    leader, follower = FakeBridge(200), FakeBridge(503)
    with nginx(tmp_path / "nginx", [1], [leader.port, follower.port]) as (_, url):
        with httpx.Client() as client:
            for _ in range(20):
                assert client.post(f"{url}{path}", json={}).status_code == 200
        assert leader.asked["POST"] == 20
        leader.status = 503
        assert httpx.post(f"{url}{path}", json={}).status_code == 503
        leader.shutdown()
        leader.server_close()
        follower.status = 200
        for _ in range(5):
            assert httpx.post(f"{url}{path}", json={}).status_code == 200
    follower.shutdown()
    follower.server_close()


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
