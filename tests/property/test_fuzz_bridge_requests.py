"""Whatever is posted to the bridge: a documented answer, nobody reset, and one line per event."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import collector.runtime.logs
from marzban_bridge.reconcile.action_names import CLEANUP_PHRASE, RESET_ALL_PHRASE
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import PASSWORDS, SECRET, BridgeWorld
from tests.support.hostile_input import OwnLoop, bodies, changed, header_values, json_values, texts

TOKEN = "a-token-that-grafana-adds"
EVENT = {
    "username": "alice",
    "action": "data_usage_reset",
    "user": {"username": "alice", "used_traffic": 0},
    "tries": 0,
    "send_at": 1.5,
}
fuzz = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Lines(logging.Handler):
    """Keeps what would be written to the log, event by event."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(collector.runtime.logs.OneLineFormatter("%(levelname)s %(message)s"))
        self.events: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(self.format(record))


class Fuzzed:
    """A bridge with a user near its limit; nothing that is sent may change how it stands."""

    def __init__(self, folder) -> None:
        self._loop = OwnLoop()
        self.lines = Lines()
        logging.getLogger("marzban_bridge").addHandler(self.lines)
        self.world = self._loop.enter(
            BridgeWorld(folder, action_token=TOKEN, action_logins=("*",)).serving()
        )
        self._loop.run(self.world.use("alice", panel_bytes=gib(1), external_bytes=gib(2)))
        self.state_before = self.state()

    def close(self) -> None:
        self._loop.close()
        logging.getLogger("marzban_bridge").removeHandler(self.lines)

    def state(self):
        account = self.world.bridge.store.accounts.get("alice")
        return account.baseline_bytes, account.quota_bytes, self.world.panel.get_user("alice")

    def post(self, path, body, headers):
        """Send it, and hold answer, books and log to their promises; throttles forget."""
        callers = self.world.callers
        for each in (callers.sign_ins, *callers.action_throttles.values()):
            each._buckets.clear()
        raw = path if isinstance(path, bytes) else path.encode()
        url = self.world.client.base_url.copy_with(raw_path=raw)
        before = len(self.lines.events)
        answer = self._loop.run(self.world.client.post(url, content=body, headers=headers))
        assert answer.status_code < 500, answer.text
        for event in self.lines.events[before:]:
            assert event.isprintable()
        return answer

    def check_unchanged(self):
        assert self.state() == self.state_before


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    fuzzed = Fuzzed(tmp_path_factory.mktemp("fuzzed"))
    yield fuzzed
    fuzzed.close()


@fuzz
@given(
    body=st.one_of(
        bodies([EVENT], EVENT, [EVENT, EVENT]),
        st.lists(st.one_of(changed(EVENT), json_values), max_size=3).map(
            lambda events: json.dumps(events).encode()
        ),
    )
)
@example(body=json.dumps([EVENT | {"x": 10**40}]).encode())
@example(body=json.dumps([EVENT | {"user": {"a": [1e308, "\ud800"]}}]).encode())
def test_a_webhook_is_a_hint_at_most(fuzzed, body):
    answer = fuzzed.post("/webhooks/marzban", body, {"x-webhook-secret": SECRET})
    assert answer.status_code in {200, 422}
    fuzzed.check_unchanged()


@fuzz
@given(secret=header_values, body=bodies([EVENT]))
def test_no_invented_webhook_secret_is_accepted(fuzzed, secret, body):
    assert fuzzed.post("/webhooks/marzban", body, {b"x-webhook-secret": secret}).status_code == 401


@fuzz
@given(
    path=st.sampled_from(["reset-all", "cleanup"]),
    body=st.one_of(
        bodies({"confirm": RESET_ALL_PHRASE + "?"}, {"confirm": CLEANUP_PHRASE}),
        changed({"confirm": "cleanup", "days": 30}).map(lambda value: json.dumps(value).encode()),
    ),
    login=header_values,
)
def test_an_action_wants_its_words_to_the_letter(fuzzed, path, body, login):
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    assume(not isinstance(said, dict) or said.get("confirm") != CLEANUP_PHRASE)
    headers = {b"x-bridge-token": TOKEN.encode(), b"x-grafana-user": login}
    answer = fuzzed.post(f"/actions/{path}", body, headers)
    assert answer.status_code == (422 if len(body) <= 4096 else 413)
    fuzzed.check_unchanged()


@fuzz
@given(name=texts, token=st.one_of(st.just(TOKEN.encode()), header_values), login=header_values)
@example(name="a\r\n2026-01-01 INFO forged", token=TOKEN.encode(), login="мария".encode())
@example(name="\x1b[2J", token=TOKEN.encode(), login=b"\x9b31m")
def test_a_name_in_an_action_names_a_user_or_nobody(fuzzed, name, token, login):
    assume(name.casefold() not in {"alice", "bob", "carol"})
    path = f"/actions/users/{quote(name, safe='', errors='replace')}/reset"
    answer = fuzzed.post(path, b"{}", {b"x-bridge-token": token, b"x-grafana-user": login})
    assert answer.status_code in {403, 404, 405, 422}
    fuzzed.check_unchanged()


@fuzz
@given(
    path=st.sampled_from(["users/alice/reset", "reset-all", "cleanup?days=30"]),
    form=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["username", "password", "confirm", "x"]),
            st.one_of(texts, st.sampled_from(["root", "boss", RESET_ALL_PHRASE, CLEANUP_PHRASE])),
            max_size=4,
        ).map(lambda form: urlencode(form, errors="replace").encode()),
    ),
)
@example(path="reset-all", form=b"&" * 1000)
@example(path="reset-all", form=b"confirm=reset+all+users&username=root&password=%ff%00")
def test_a_form_without_a_password_does_nothing(fuzzed, path, form):
    assert not any(password.encode() in form for password in PASSWORDS.values())
    answer = fuzzed.post(f"/confirm/{path}", form, {})
    assert answer.status_code in {400, 403, 413, 422}
    assert "<script>alert" not in answer.text
    fuzzed.check_unchanged()


@fuzz
@given(path=st.sampled_from(["/v1/reset-all", "/v1/cleanup?days=3"]), value=header_values)
@example(path="/v1/reset-all", value="Bearer ключ".encode())
def test_no_invented_admin_token_is_accepted(fuzzed, path, value):
    for header in (value, b"Bearer " + value):
        answer = fuzzed.post(
            path, json.dumps({"confirm": RESET_ALL_PHRASE}).encode(), {b"authorization": header}
        )
        assert answer.status_code in {401, 403, 429}
    fuzzed.check_unchanged()


@fuzz
@given(body=st.binary(max_size=300), content_type=header_values)
def test_any_sign_in_is_answered_by_the_panel_or_refused(fuzzed, body, content_type):
    answer = fuzzed.post("/api/admin/token", body, {b"content-type": content_type})
    assert answer.status_code in {400, 401, 422}
