"""`scripts/install.sh`: from a clean Debian to the first limited user, and back to a clean one.

The whole way needs root and a Debian root folder to install in, such as `debootstrap
--variant=minbase bookworm FOLDER` makes; it is copied and not changed. The nightly run has one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.support import programs
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "install.sh"
UNITS = ROOT / "packaging" / "systemd"
MOST_EXPOSURE = {"external-traffic": 1.2, "traffic-agent": 1.7}
DEADLINE_SECONDS = 120
PASSWORD = 'a "$word" #with all'
CERTIFICATES = "etc/ssl/this-machines.crt"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on the PATH"
)


def shell(*arguments, **options):
    return subprocess.run(
        ["sh", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
        **options,
    )


def test_its_help_names_every_option_and_the_pages_name_no_other():
    said = shell("--help")
    assert said.returncode == 0
    options = set(re.findall(r"--[a-z-]+", said.stdout))
    taken = set(re.findall(r"--[a-z-]+(?= \||\)| \\)", SCRIPT.read_text().split("esac")[0]))
    assert taken <= options
    for page in (ROOT / "docs").glob("*.md"):
        for line in re.findall(r"scripts/install\.sh[^`\n]*", page.read_text()):
            assert set(re.findall(r"--[a-z-]+", line)) <= options, f"{page.name}: {line}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "there is no option --nonsense"),
        (["--wheel"], "--wheel needs a value"),
        (["--purge"], "--purge goes with --uninstall"),
    ],
)
def test_a_misuse_is_one_line_and_exit_code_2(arguments, says):
    ended = shell(*arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_versions_it_installs_are_those_of_the_lock():
    with (ROOT / "uv.lock").open("rb") as file:
        locked = {each["name"]: each["version"] for each in tomllib.load(file)["package"]}
    text = (ROOT / "packaging" / "pip" / "constraints.txt").read_text()
    found = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
    assert found == {name: locked[name] for name in found}, "run `just constraints`"
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {re.match(r"[a-z0-9-]+", each)[0] for each in needed}
    assert names <= set(found), "run `just constraints`"


@needs_systemd
@pytest.mark.parametrize("service", MOST_EXPOSURE)
def test_a_service_is_as_confined_as_the_page_says(service, tmp_path):
    """The figure is systemd 252's; a newer one may weigh differently, within 0.3."""
    unit = UNITS / f"{service}.service"
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    figure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    if figure is None:
        pytest.skip(f"this systemd-analyze reads no unit files: {said.stderr.strip()[:200]}")
    assert float(figure[1]) <= MOST_EXPOSURE[service] + 0.3
    assert f"{MOST_EXPOSURE[service]}" in (ROOT / "docs" / "install.md").read_text()
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^(User|Group)=.*", r"\1=root", text, flags=re.MULTILINE))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert service not in verified.stderr, verified.stderr


@pytest.fixture
def root():
    """A copy of the Debian root, with the checkout in /checkout."""
    given = os.environ.get("TEST_INSTALL_ROOT", "")
    if not given or os.geteuid() != 0:
        pytest.skip("TEST_INSTALL_ROOT names no Debian root folder, or this is not root")
    folder = Path(tempfile.mkdtemp(prefix="install-"))
    copy = folder / "root"
    subprocess.run(["cp", "-a", given, copy], check=True)
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = copy / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for name, target in (
        ("etc/resolv.conf", "etc/resolv.conf"),
        ("etc/ssl/certs/ca-certificates.crt", CERTIFICATES),  # its own package writes others there
    ):
        if (source := Path("/") / name).exists():
            (copy / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / target)
    yield copy
    shutil.rmtree(folder)


class Machine:
    """The Debian root, as its administrator has it: commands, without a running systemd."""

    def __init__(self, root, panel_port):
        self.root = root
        self.panel = f"http://127.0.0.1:{panel_port}"

    def environment(self, **more):
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "PIP_CERT": f"/{CERTIFICATES}",
            **more,
        }

    def run(self, *command, code=0, **environment):
        ended = subprocess.run(
            ["chroot", self.root, *command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self.environment(**environment),
            timeout=1200,
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == code, said
        return said

    def install(self, *options, code=0, **environment):
        return self.run("sh", "/checkout/scripts/install.sh", *options, code=code, **environment)

    def files(self):
        """Return every file of the installation, with when it was written."""
        return {
            path: path.lstat().st_mtime_ns
            for folder in ("opt", "etc/external-traffic", "etc/systemd/system", "usr/local")
            for path in (self.root / folder).rglob("*")
            if "__pycache__" not in path.parts
        }


@pytest.mark.timeout(2400)
def test_from_a_clean_debian_to_the_first_limited_user_and_back(root, tmp_path):
    panel_port, bridge_port, collector_port = free_port(), free_port(), free_port()
    machine = Machine(root, panel_port)
    users = tmp_path / "users.json"
    users.write_text(
        '{"users": [{"username": "alice", "data_limit": 10737418240, "used_traffic": 4294967296}]}'
    )
    panel = programs.start(
        *("marzban_bridge", "simulator", "--users", str(users), "--port", str(panel_port)),
        *("--username", "admin", "--password", PASSWORD),
        *("--review-seconds", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert "the panel's address is not known" in machine.install(code=2)
        assert not (root / "opt" / "external-traffic").exists()
        said = machine.install(
            MARZBAN_URL=machine.panel, MARZBAN_USERNAME="admin", MARZBAN_PASSWORD=PASSWORD
        )
        key = re.search(r"rk_\S+", said)[0]
        before = machine.files()
        assert "Nothing had to be changed." in machine.install()
        assert machine.files() == before
        settings = root / "etc" / "external-traffic" / ".env"
        settings.write_text(
            re.sub(r"BRIDGE_PORT=.*", f"BRIDGE_PORT={bridge_port}", settings.read_text()).replace(
                "COLLECTOR_PORT=8080", f"COLLECTOR_PORT={collector_port}"
            )
        )
        assert settings.stat().st_mode & 0o777 == 0o640
        limits_alice(machine, key, collector_port)
        assert "Nothing had to be changed." in machine.install("--upgrade")
        (root / "checkout" / "collector" / "another_version.py").write_text("")
        assert "--upgrade" in machine.install(code=1)
        machine.install("--upgrade")
        copies = sorted((root / "var/lib/external-traffic/backups").rglob("*.sqlite3"))
        assert [each.name for each in copies] == ["bridge.sqlite3", "ledger.sqlite3"]
        assert alice(machine)["status"] == "limited"
        machine.install("--uninstall")
        assert alice(machine)["data_limit"] == 10737418240
        assert (root / "var/lib/external-traffic/data/ledger.sqlite3").exists()
        assert not (root / "opt/external-traffic").exists()
        machine.install("--uninstall", "--purge")
        assert not (root / "var/lib/external-traffic").exists()
        assert "traffic" not in (root / "etc/passwd").read_text()
    finally:
        panel.kill()
        panel.wait()


def limits_alice(machine, key, collector_port):
    """Start it as the unit does, report 11 GiB, and wait until the panel has limited alice."""
    command = ["chroot", machine.root, "marzban-bridge", "up"]
    with (machine.root / "tmp" / "up.log").open("wb") as log:
        up = subprocess.Popen(command, env=machine.environment(), stdout=log, stderr=log)
    try:
        report = {"user_token": "alice", "server": "de-1", "port": 443, "protocol": "vless"}
        report |= {"bytes_uploaded": 0, "bytes_downloaded": 11 << 30, "report_id": "one"}
        until(
            lambda: (
                httpx.post(
                    f"http://127.0.0.1:{collector_port}/v1/reports",
                    json=report,
                    headers={"authorization": f"Bearer {key}"},
                ).is_success
            )
        )
        until(lambda: alice(machine)["status"] == "limited")
        said = machine.run("marzban-bridge", "doctor")
        assert "wrong" not in said
        assert "ok    bridge, running" in said
    finally:
        up.terminate()
        up.wait(DEADLINE_SECONDS)


def alice(machine):
    form = {"username": "admin", "password": PASSWORD}
    token = httpx.post(f"{machine.panel}/api/admin/token", data=form).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    return httpx.get(f"{machine.panel}/api/user/alice", headers=headers).json()


def until(is_so):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            if is_so():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
