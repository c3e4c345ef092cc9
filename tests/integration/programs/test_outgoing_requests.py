"""Where our own requests go: to the address in the settings, and nowhere an answer or a token says.

Real sockets: a server that redirects everything, and another that must never be asked anything.
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.errors import CollectorError, InfluxError, PanelUnavailableError
from collector.influx.access import InfluxAccess
from collector.influx.buckets import Buckets
from collector.influx.client import Influx
from collector.influx.outcome import Stored
from collector.intake.subscriptions.resolver import Subscriptions
from collector.metrics import Metrics
from collector.reports.identity import subscription_token
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import BridgeError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.rest_panel import RestPanel
from tests.support.collector.collectors import ALICE_TOKEN, AS_ADMIN, CollectorWorld, running, wire
from tests.support.fixed_answers import Server, serving
from tests.support.hostile_input import texts

STATUSES = [301, 302, 303, 307, 308]


@pytest.fixture(params=STATUSES)
def redirected(request):
    """A server that sends everybody elsewhere, and that elsewhere."""
    with serving(Server(204, body=b"")) as trap:
        to_trap = [("location", f"{trap.url}/stolen")]
        with serving(Server(request.param, to_trap)) as server:
            yield server, trap


async def closing(thing, work):
    try:
        await work(thing)
    finally:
        await thing.close()


async def test_the_panels_password_and_token_do_not_follow_a_redirect(redirected):
    server, trap = redirected
    panel = RestPanel(server.url, kind=PanelKind.MARZBAN, username="root", password="hunter2")
    panel._session._token = "a-token-from-before"
    for work in (
        lambda panel: panel.get_user("alice"),
        lambda panel: panel.reset_user("alice"),
        lambda panel: panel.whoami(bearer="somebody's"),
    ):
        with pytest.raises(BridgeError):
            await work(panel)
    panel._session._token = None
    with pytest.raises(BridgeError):
        await closing(panel, lambda panel: panel.get_users(["alice"]))
    assert server.asked
    assert trap.asked == []


async def test_a_users_token_does_not_follow_a_redirect(redirected):
    server, trap = redirected
    subscriptions = Subscriptions(
        {"default": f"{server.url}/sub"}, monotonic_seconds=time.monotonic, metrics=Metrics()
    )
    with pytest.raises(PanelUnavailableError):
        await closing(subscriptions, lambda it: it.resolve(ALICE_TOKEN, stranger=""))
    assert [path for _, path, _ in server.asked] == [f"/sub/{ALICE_TOKEN}/info"]
    assert trap.asked == []


async def test_the_collectors_key_does_not_follow_a_redirect(redirected):
    server, trap = redirected
    feed = CollectorFeed(server.url, admin_key="the-admin-key")
    with pytest.raises(BridgeError):
        await closing(feed, lambda it: it.read(after=0))
    assert server.asked[0][2]["authorization"] == "Bearer the-admin-key"
    assert trap.asked == []


def test_neither_points_nor_token_of_influxdb_follow_a_redirect(redirected):
    server, trap = redirected
    access = InfluxAccess(url=server.url, org="vpn", token="an-influx-token")
    influx = Influx(access)
    assert not isinstance(influx.write("traffic/raw", ["m v=1i 1"]), Stored)
    with pytest.raises(InfluxError):
        influx.delete_before("traffic/raw", datetime(2026, 1, 1, tzinfo=UTC))
    influx.close()
    with pytest.raises(InfluxError):
        Buckets(access).current_seconds()
    assert server.asked
    assert trap.asked == []


def test_a_password_is_not_told_to_what_only_redirects(redirected):
    server, trap = redirected
    settings = Settings(
        marzban_url="http://panel.test",
        marzban_username="root",
        marzban_password="hunter2",
        port=server.server_address[1],
    )
    with RunningBridge.find(settings) as running_bridge:
        assert running_bridge is None
    assert [path for _, path, _ in server.asked] == ["/healthz"]
    assert trap.asked == []


HOSTS = ["evil.test", "169.254.169.254", "user:pw@evil.test", "panel.test@evil.test", "[::1]", ""]
TAILS = [
    "",
    "/",
    "/info",
    "/../../api/admin",
    "/%2e%2e/%2e%2e/api/admins",
    "?token=x",
    "#/x",
    "//evil.test/",
    "\\..\\x",
    ";x",
]
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "HTTPS://", "https:///", "http:\\\\"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["/sub/", "/", "/sub/../", "//", "/sub%2f"]),
    st.sampled_from([ALICE_TOKEN, "..", "%2e%2e", f"{ALICE_TOKEN}%2f..%2fadmin", "api%2Fadmin"]),
    st.sampled_from(TAILS),
)
tokens = st.one_of(
    texts,
    urls,
    st.builds("{}{}".format, st.just(ALICE_TOKEN), st.sampled_from(TAILS)),
    st.from_regex(r"eyJ[a-z]{10}[./%]{1,3}[a-z]{10}\.[a-z]{10}", fullmatch=True),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(user_token=tokens)
@example(user_token=f"http://evil.test/sub/{ALICE_TOKEN}")
@example(user_token=f"http://evil.test:99999/sub/{ALICE_TOKEN}")
@example(user_token="eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9xxxx.c2lnbmF0dXJlMTIz")
async def test_no_token_changes_which_address_is_asked(user_token):
    token = subscription_token(user_token)
    if token is None:
        return
    asked: list[httpx.URL] = []

    def answer(request):
        asked.append(request.url)
        return httpx.Response(404)

    subscriptions = Subscriptions(
        {"default": "https://panel.test:8443/base/sub"},
        monotonic_seconds=time.monotonic,
        metrics=Metrics(),
        transport=httpx.MockTransport(answer),
    )
    with contextlib.suppress(CollectorError):
        await closing(subscriptions, lambda it: it.resolve(token, stranger=""))
    (url,) = asked
    assert (url.scheme, url.host, url.port) == ("https", "panel.test", 8443)
    assert url.raw_path == f"/base/sub/{token}/info".encode()
    assert token in user_token
    assert not set(token) & set("/%\\?#:@")


async def test_a_url_of_another_host_is_asked_of_our_panel_alone(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        for user_token in (
            f"http://evil.test/sub/{ALICE_TOKEN}",
            f"https://u:p@evil.test:1/x/../{ALICE_TOKEN}?a#b",
        ):
            assert (await world.send([wire(user_token)], headers={})).status_code == 200
        path = f"/api/xpert/traffic-stats/..%2f..%2fapi%2fadmins%2f{ALICE_TOKEN}"
        answer = await world.client.get(path, headers=AS_ADMIN)
        assert answer.status_code == 200
        assert set(world.asked) == {f"/sub/{ALICE_TOKEN}/info"}
