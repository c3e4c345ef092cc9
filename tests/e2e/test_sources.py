"""What other panels post, and what an old one has counted, limits users in Marzban: real processes."""

from __future__ import annotations

import contextlib
import signal
import sqlite3

import pytest

from marzban_bridge.quota.account import GIB
from tests.support import raw_requests
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, until

USERS = [
    {"username": "alice", "data_limit": 10 * GIB, "used_traffic": 4 * GIB},
    {"username": "outside", "data_limit": 10 * GIB},
    {"username": "bystander", "data_limit": 10 * GIB, "used_traffic": 4 * GIB},
]
SOURCES = """
[3x-ui.{reporter}]
server = "de-1"
users = {{ pattern = '(?P<username>.+)@de' }}

[uniproxy.{reporter}]
retry_window_seconds = 600
nodes = {{ 7 = "fr-1" }}
[uniproxy.{reporter}.users.table]
42 = "outside"
"""
THREE_X_UI = f"/v1/sources/3x-ui/{REPORTER_KEY}"
UNIPROXY = f"/v1/sources/uniproxy/{REPORTER_KEY}?node_id=7&node_type=vless&token=panel-secret"


@pytest.fixture
def stack(tmp_path):
    sources = tmp_path / "sources.toml"
    sources.write_text(SOURCES.format(reporter="test"))
    opened = Stack(tmp_path, USERS, {"COLLECTOR_SOURCES_FILE": str(sources)})
    yield opened
    opened.close()


def post(stack, path, body):
    return stack.client.post(stack.urls[COLLECTOR] + path, json=body)


def inform(email, up, down):
    idle = [{"email": f"idle-{number}@de", "up": 0, "down": 0} for number in range(1000)]
    row = {"id": 0, "email": email, "up": up, "down": down, "total": 0}
    inbounds = [{"IsInbound": True, "IsOutbound": False, "Tag": "in", "Up": up, "Down": down}]
    return {"clientTraffics": [*idle, row], "inboundTraffics": inbounds}


def test_a_user_of_a_3x_ui_and_one_of_v2board_s_nodes_are_cut_off_and_the_third_is_not(stack):
    stack.start(PANEL, COLLECTOR, BRIDGE)
    stack.until_up(PANEL, COLLECTOR, BRIDGE)
    for _ in range(2):
        answer = post(stack, THREE_X_UI, inform("alice@de", GIB // 2, 2 * GIB))
        assert answer.json()["accepted"] == 1
    until("alice's limit is lowered", lambda: stack.user("alice")["data_limit"] == 5 * GIB)
    post(stack, THREE_X_UI, inform("alice@de", GIB, GIB))
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")

    push = {"42": [6 * GIB, 3 * GIB], "99": [GIB, GIB]}
    assert post(stack, UNIPROXY, push).json()["accepted"] == 1
    stack.stop(COLLECTOR, signal.SIGKILL)
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    retry = post(stack, UNIPROXY, push).json()
    assert (retry["accepted"], retry["duplicates"]) == (0, 1)
    assert stack.user("outside")["status"] == "active"
    post(stack, UNIPROXY, {"42": [GIB, 0]})
    until("outside is disabled", lambda: stack.user("outside")["status"] == "disabled")
    bystander = stack.user("bystander")
    assert (bystander["status"], bystander["data_limit"]) == ("active", 10 * GIB)

    stack.reset_in_panel("alice")
    until(
        "alice has its quota",
        lambda: (
            (stack.user("alice")["status"], stack.user("alice")["data_limit"])
            == ("active", 10 * GIB)
        ),
    )


def send_raw(stack, text):
    address = ("127.0.0.1", int(stack.urls[COLLECTOR].rsplit(":", 1)[1]))
    return raw_requests.exchange(address, text.encode()).decode(errors="replace")


def test_the_key_in_a_path_is_in_no_log_answer_or_metric_of_the_running_process(stack):
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    answers = [post(stack, THREE_X_UI, inform("alice@de", 1, 2)).text]
    answers += [post(stack, path, [1]).text for path in (THREE_X_UI, f"{THREE_X_UI}x", UNIPROXY)]
    for head in (
        f"POST {THREE_X_UI} HTTP/9.9\r\n\r\n",
        f"POST {THREE_X_UI} nonsense\r\n\r\n",
        f"POST  {THREE_X_UI}\r\n\r\n",
        f"\x00POST {THREE_X_UI} HTTP/1.1\r\nhost: a\r\n\r\n",
        f"POST {THREE_X_UI} HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        f"POST {THREE_X_UI} HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{{",
        f"GET {THREE_X_UI} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        f"CONNECT {THREE_X_UI} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        f"POST http://a{THREE_X_UI} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        f"POST {THREE_X_UI}%zz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        f"POST {THREE_X_UI} HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        f"POST {THREE_X_UI} HTTP/1.1\r\nx: {'a' * 200_000}\r\n\r\n",
    ):
        answers.append(send_raw(stack, head))
    answers.append(stack.client.get(stack.urls[COLLECTOR] + "/metrics").text)
    answers.append(stack.client.get(stack.urls[COLLECTOR] + "/readyz").text)
    stack.stop(COLLECTOR, signal.SIGTERM)
    for secret in (REPORTER_KEY, "panel-secret"):
        assert not [each for each in answers if secret in each]
        assert secret not in stack.log_of(COLLECTOR)
    assert "collector on http" in stack.log_of(COLLECTOR)


@pytest.mark.parametrize("program", ["collector", "bridge"])
def test_a_wrong_sources_file_stops_the_start_with_one_line(stack, program):
    (stack.folder / "sources.toml").write_text("[3x-ui.de-1]\nserer = 'x'\n")
    module = {"collector": ("collector", "serve"), "bridge": ("marzban_bridge", "up")}[program]
    ended = stack.run(*module)
    assert ended.returncode == 1
    (said,) = [line for line in ended.stderr.splitlines() if "error:" in line]
    assert "sources.toml: [3x-ui.de-1] serer: is not known here (did you mean server?)" in said
    assert "Traceback" not in ended.stderr


def test_what_an_original_panel_counted_limits_a_user_if_that_is_asked_for_and_only_once(stack):
    original = stack.folder / "xpert.db"
    with contextlib.closing(sqlite3.connect(original)) as db:
        db.execute(
            "CREATE TABLE traffic_usage (user_token, config_server, config_port, protocol, "
            "bytes_uploaded, bytes_downloaded, date_collected, timestamp)"
        )
        row = ("alice", "de-1", 443, "vless", GIB, 2 * GIB, "2026-01-05", "2026-01-05 10:00:00")
        db.execute("INSERT INTO traffic_usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        row = ("alice", "nl-1", 443, "vless", GIB, 2 * GIB, "2026-01-06", None)
        db.execute("INSERT INTO traffic_usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.commit()
    stack.start(PANEL, COLLECTOR, BRIDGE)
    stack.until_up(PANEL, COLLECTOR, BRIDGE)
    refused = stack.run("collector", "import", str(original), "--all")
    assert refused.returncode == 1
    assert "Stop the collector for the import" in refused.stderr

    def take_over(*options):
        stack.stop(COLLECTOR, signal.SIGTERM)
        done = stack.run("collector", "import", str(original), *options)
        assert done.returncode == 0, done.stderr
        assert "The sums agree." in done.stdout
        stack.start(COLLECTOR)
        stack.until_up(COLLECTOR)

    take_over()
    stack.report("alice", 2 * GIB, "after-it")
    until("alice's limit is lowered", lambda: stack.user("alice")["data_limit"] < 10 * GIB)
    assert stack.user("alice")["data_limit"] == 8 * GIB, "history limits nobody by surprise"
    for _ in range(2):
        take_over("--all", "--toward-quota", "--origin", "again")
        until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
        assert stack.user("alice")["data_limit"] == 2 * GIB
    usage = stack.ask_collector("/v1/usage/alice")
    assert {each["server"] for each in usage["servers"]} == {"de-1", "nl-1"}
    assert usage["billed_bytes"] == 8 * GIB
    assert usage["upload_bytes"] + usage["download_bytes"] == 14 * GIB
