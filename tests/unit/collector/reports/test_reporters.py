"""Who may report for whom: keys, signatures, subscription tokens, how often."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from collector.reports.identity import (
    is_plainly_a_name,
    is_url,
    name_within,
    subscription_token,
)
from collector.reports.reporters import (
    NAME,
    KeyRing,
    Reporter,
    hash_key,
    is_signature_valid,
    new_key,
    signing_secret,
)
from collector.runtime.rate_limit import RateLimit
from marzban_bridge.simulator.http.tokens import subscription_token as token_of
from tests.recordings.panels import MARZBAN, PASARGUARD

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
V2_TOKEN = base64.urlsafe_b64encode(b"alice,1795433385").decode().rstrip("=") + "3PDaZWi-hR"
V3_TOKEN = "djMsMywxNzk1ODU0NzE1.Rr3Obj3RHspUT7vDkQjLA4LctFensNi5vIrFer0SCkM"
V3_SIGNATURE = V3_TOKEN.partition(".")[2]
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSJ9fQ.c2lnbmF0dXJlc2ln"


def v3_token(payload: str) -> str:
    """Return what PasarGuard would make of a payload."""
    return f"{base64.urlsafe_b64encode(payload.encode()).decode().rstrip('=')}.{V3_SIGNATURE}"


class TestSubscriptionTokens:
    @pytest.mark.parametrize(
        ("text", "token"),
        [
            (V2_TOKEN, V2_TOKEN),
            (JWT, JWT),
            (f"https://panel.example.com/sub/{V2_TOKEN}", V2_TOKEN),
            (f"https://panel.example.com:8000/a/b/{V2_TOKEN}/", V2_TOKEN),
            (f"http://panel/sub/{V2_TOKEN}/v2ray?x=1#y", V2_TOKEN),
            (f"/sub/{V2_TOKEN}", V2_TOKEN),  # of a panel that was not told its address
            (f" /a/b/{V2_TOKEN}/clash", V2_TOKEN),
            (V3_TOKEN, V3_TOKEN),
            (v3_token("v3,1,1795854715"), v3_token("v3,1,1795854715")),
            (v3_token(f"v3,{2**63 - 1},1795854715"), v3_token(f"v3,{2**63 - 1},1795854715")),
            (f"https://panel.example.com/sub/{V3_TOKEN}", V3_TOKEN),
            (f"https://panel.example.com:8000/my/own/{V3_TOKEN}/", V3_TOKEN),
            (f"/sub/{V3_TOKEN}/info", V3_TOKEN),
            (f" {V3_TOKEN}\n", V3_TOKEN),
            ("/alice", None),
            ("alice", None),
            ("alice_with_a_long_name_of_32char", None),
            ("", None),
            ("https://panel.example.com/", None),
            ("https://[", None),
            (V2_TOKEN + "/../../api/admin", None),
            (V2_TOKEN + "\n", V2_TOKEN),
            ("Алиса,1795433385", None),
            (V3_TOKEN[:-1], None),
            (V3_TOKEN + "A", None),
            (V3_TOKEN.replace(".", ""), None),
            (V3_TOKEN.replace(".", ".."), None),
            (V3_TOKEN + "." + V3_SIGNATURE, None),
            (V3_SIGNATURE + "." + V3_SIGNATURE, None),
            (v3_token("v3,alice,1795854715"), None),
            (v3_token("v3,3"), None),
            (v3_token("alice,1795854715"), None),
            (v3_token("v3,3,1795854715,4"), None),
            ("a.name@with.dots-and_others", None),
            ("n." + "x" * 43, None),
        ],
    )
    def test_a_token_is_told_from_a_username(self, text, token):
        assert subscription_token(text) == token

    def test_the_recorded_panels_links_carry_a_token(self):
        for panel, answer in ((MARZBAN, "user-object"), (PASARGUARD, "user-get")):
            link = panel.recorded(answer).body["subscription_url"]
            assert subscription_token(link) == link.rsplit("/", 1)[1]
            assert subscription_token(link.rsplit("/", 1)[1]) == link.rsplit("/", 1)[1]

    @pytest.mark.parametrize("kind", ["marzban", "pasarguard"])
    @given(
        username=st.from_regex(r"[a-z0-9]{3,128}", fullmatch=True), user_id=st.integers(1, 2**63)
    )
    def test_every_token_of_either_panel_is_one(self, kind, username, user_id):
        now = datetime(2026, 11, 28, tzinfo=UTC)
        token = token_of(username, user_id=user_id, kind=kind, now=now, secret="a secret")
        assert subscription_token(token) == token
        assert name_within(token) == (username if kind == "marzban" else None)

    @given(st.from_regex(r"[A-Za-z0-9_]{3,32}", fullmatch=True))
    def test_a_panel_username_is_hardly_ever_taken_for_a_token(self, username):
        token = subscription_token(username)
        if token is not None:
            payload = base64.urlsafe_b64decode(token[:-10] + "=" * (-len(token[:-10]) % 4))
            assert payload.decode().rsplit(",", 1)[1].isdigit()

    @given(st.text())
    def test_only_harmless_characters_come_out(self, text):
        for attempt in (text, f"https://x/sub/{text}"):
            token = subscription_token(attempt)
            assert token is None or all(char.isalnum() or char in "-_." for char in token)


class TestKeys:
    def test_a_key_opens_and_a_revoked_or_foreign_one_does_not(self):
        good, revoked = new_key(), new_key()
        ring = KeyRing(
            [
                Reporter(name="good", key_hash=hash_key(good), created_at_millis=1),
                Reporter(
                    name="gone",
                    key_hash=hash_key(revoked),
                    created_at_millis=1,
                    revoked_at_millis=2,
                ),
            ],
            now_millis=0,
        )
        assert ring.by_key(good).name == "good"
        assert ring.by_key(revoked) is None
        assert ring.by_key("") is None
        assert ring.by_name("gone") is None
        assert len(ring) == 1

    def test_keys_are_long_and_all_different(self):
        keys = {new_key() for _ in range(100)}
        assert len(keys) == 100
        assert all(key.startswith("rk_") and len(key) == 46 for key in keys)

    def test_a_reporters_representation_does_not_show_its_hash(self):
        reporter = Reporter(name="r", key_hash=hash_key("secret"), created_at_millis=1)
        assert "key_hash" not in repr(reporter)

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ю"])
    def test_names_are_plain(self, name):
        assert not NAME.fullmatch(name)


class TestSignatures:
    """Ours verifies what the reference library signs."""

    key_hash = hash_key("rk_an-example-key")
    body = b'{"user_token": "alice"}'

    def headers(self, *, at=NOW, body=None, message_id="msg_1", secret=None):
        webhook = Webhook(secret or signing_secret(self.key_hash))
        signature = webhook.sign(message_id, at, (body or self.body).decode())
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
        }

    def verified(self, headers, *, body=None, now=NOW):
        return is_signature_valid(
            headers, body or self.body, key_hash=self.key_hash, now_seconds=now.timestamp()
        )

    def test_a_signature_of_the_reference_library_is_accepted(self):
        assert self.verified(self.headers())

    def test_one_of_several_signatures_is_enough(self):
        headers = self.headers()
        signature = headers["webhook-signature"]
        headers["webhook-signature"] = f"v1,AAAA v1a,BBBB nonsense {signature}"
        assert self.verified(headers)

    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_every_header_is_needed(self, name):
        headers = self.headers()
        del headers[name]
        assert not self.verified(headers)

    @pytest.mark.parametrize(
        "change",
        [
            {"webhook-id": "msg_2"},
            {"webhook-timestamp": str(int(NOW.timestamp()) + 1)},
            {"webhook-timestamp": "٣"},
            {"webhook-timestamp": "-5"},
            {"webhook-signature": "v1,!!!"},
            {"webhook-signature": "v2,"},
        ],
    )
    def test_nothing_that_is_signed_may_change(self, change):
        assert not self.verified(self.headers() | change)

    def test_another_body_is_refused(self):
        assert not self.verified(self.headers(), body=b'{"user_token": "mallory"}')

    def test_another_secret_is_refused(self):
        other = signing_secret(hash_key("other"))
        assert not self.verified(self.headers(secret=other))

    @pytest.mark.parametrize(
        ("off", "is_valid"), [(300, True), (301, False), (-300, True), (-301, False)]
    )
    def test_a_timestamp_may_be_five_minutes_off(self, off, is_valid):
        at = datetime.fromtimestamp(NOW.timestamp() + off, tz=UTC)
        assert self.verified(self.headers(at=at)) is is_valid


class TestRateLimit:
    def test_a_burst_is_let_through_and_then_the_rate(self):
        limit = RateLimit(per_second=2, burst=3)
        assert [limit.take("a", now_seconds=10) for _ in range(4)] == [0, 0, 0, 0.5]
        assert limit.take("a", now_seconds=10.4) > 0
        assert limit.take("a", now_seconds=10.5) == 0

    def test_callers_do_not_share(self):
        limit = RateLimit(per_second=1, burst=1)
        assert limit.take("a", now_seconds=0) == 0
        assert limit.take("b", now_seconds=0) == 0
        assert limit.take("a", now_seconds=0) > 0

    def test_a_bucket_never_holds_more_than_the_burst(self):
        limit = RateLimit(per_second=1, burst=2)
        limit.take("a", now_seconds=0)
        assert [limit.take("a", now_seconds=1e6) for _ in range(3)] == [0, 0, 1]

    def test_a_clock_that_goes_back_forgives_nothing(self):
        limit = RateLimit(per_second=1, burst=1)
        limit.take("a", now_seconds=100)
        assert limit.take("a", now_seconds=0) > 0

    def test_zero_is_no_limit(self):
        limit = RateLimit(per_second=0, burst=1)
        assert {limit.take("a", now_seconds=0) for _ in range(100)} == {0}

    def test_memory_is_bounded(self):
        limit = RateLimit(per_second=1, burst=1, remembered=10)
        for number in range(1000):
            limit.take(str(number), now_seconds=0)
        assert len(limit._buckets) == 10


@given(st.one_of(st.text(max_size=40), st.from_regex(r"https?:[A-Za-z0-9_/.-]{0,20}")))
def test_what_is_plainly_a_name_is_neither_a_token_nor_a_url(text):
    if is_plainly_a_name(text):
        assert subscription_token(text) is None
        assert not is_url(text)


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("alice", True),
        ("a" * 14, True),
        ("a-name-of-many-letters", True),
        ("YWxpY2UsMTc5MDAwMDAwMAabcdefghij", False),
        (" YWxpY2UsMTc5MDAwMDAwMAabcdefghij", False),
        ("/sub/of-a-panel-itself", False),
        ("http://x/y", False),
        ("a:b", False),
    ],
)
def test_texts_that_are_no_tokens_and_have_no_colon_are_plainly_names(text, is_plain):
    assert is_plainly_a_name(text) is is_plain
