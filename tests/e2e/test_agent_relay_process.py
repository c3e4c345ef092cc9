"""A real relay, killed while a panel posts: what it answered well is passed on, once."""

from __future__ import annotations

import http.client
import json
import random
import threading
from contextlib import closing

from tests.support.agent.agent_process import AgentProcess
from tests.support.agent.relay_receiver import RelayReceiver
from tests.support.collector.collector_process import CollectorProcess, poll
from tests.support.ports import free_port
from tests.support.raw_requests import exchange

SECRET = "panel-secret-0123456789"


def relay(port: int) -> str:
    return (
        f'[relay]\nlisten = "127.0.0.1:{port}"\n'
        f'[[relay.route]]\nname = "panel"\nkind = "3x-ui"\nsecret = "{SECRET}"\n'
    )


def post(port: int, body: bytes) -> int | None:
    """Post as 3x-ui does: three seconds, no second try."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    with closing(connection):
        try:
            connection.request("POST", f"/3x-ui/{SECRET}", body, {"Connection": "close"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


def inform(user: str, up: int, down: int) -> bytes:
    rows = [
        {"email": user, "up": up, "down": down, "uuid": "", "total": 0},
        {"email": "idle", "up": 0, "down": 0},
    ]
    inbounds = [{"IsInbound": True, "Tag": "inbound-443", "Up": up, "Down": down}]
    return json.dumps({"clientTraffics": rows, "inboundTraffics": inbounds}).encode()


def test_a_post_whose_sender_was_killed_in_its_middle_is_none():
    receiver = RelayReceiver()
    try:
        host, port = receiver.url.removeprefix("http://").split(":")
        head = b"POST / HTTP/1.1\r\nhost: x\r\nwebhook-id: one\r\ncontent-length: 5\r\n\r\n"
        assert exchange((host, int(port)), head + b"who") == b""
        assert receiver.posts == {}
    finally:
        receiver.close()


def test_what_was_answered_is_passed_on_once_through_kills_and_a_receiver_that_is_away(tmp_path):
    rng, port, receiver_port = random.Random(3), free_port(), free_port()
    agent = AgentProcess(tmp_path, f"http://127.0.0.1:{receiver_port}", relay(port))
    receiver = None
    posted: set[bytes] = set()
    answered: set[bytes] = set()
    stop = threading.Event()

    def panel() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = inform(f"user{number}", number, number)
            posted.add(body)
            if post(port, body) == 200:
                answered.add(body)

    thread = threading.Thread(target=panel)
    try:
        agent.start()
        thread.start()
        for number in range(5):
            wanted = len(answered) + rng.randrange(3, 30)
            poll("more posts", lambda wanted=wanted: len(answered) >= wanted)
            if number == 2:
                receiver = RelayReceiver(receiver_port)
            agent.kill()
            agent.start()
        stop.set()
        thread.join()
        assert receiver is not None

        def passed_on() -> set[bytes]:
            return {body for _, body in receiver.posts.values()}

        poll("all that was answered", lambda: answered <= passed_on(), seconds=120)
        assert passed_on() <= posted
        assert len(receiver.posts) == len(passed_on()), "one id each, however often it was sent"
        assert agent.terminate() == 0
    finally:
        stop.set()
        agent.kill()
        if receiver is not None:
            receiver.close()
    log = agent.log.read_text()
    assert "delivery_fails lane=relay:panel" in log
    assert SECRET not in log
    assert "rk_" not in log


def test_a_real_collector_counts_what_a_panel_posted_while_it_was_down(tmp_path):
    port = free_port()
    collector = CollectorProcess(tmp_path)
    agent = AgentProcess(tmp_path, f"http://127.0.0.1:{collector.port}", relay(port))
    try:
        agent.start()
        poll("a relay", lambda: post(port, inform("alice", 1, 2)) == 200)
        assert post(port, inform("alice", 10, 20)) == 200
        poll("it notices", lambda: "delivery_fails" in agent.log.read_text())
        collector.start()
        poll("both", lambda: collector.totals() == {"alice": 33})
        assert agent.terminate() == 0
    finally:
        agent.kill()
        collector.kill()
