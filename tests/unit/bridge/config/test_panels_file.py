"""The panels there are, and what they and their users are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.runtime.config import ConfigError
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.panels.names import (
    FIRST_PANEL,
    PANEL_NAME,
    ReportedName,
    account_key,
    scoped,
    take_apart,
)

TWO = """
[two]
url = "https://two.example.com:8000/"
username = "bridge"
password = "hunter2-of-two"
"""


def settings(path=None):
    return Settings(
        marzban_url="https://one.example.com",
        marzban_username="root",
        marzban_password="hunter2-of-one",
        marzban_timeout_seconds=7,
        webhook_secret="secret-of-one",
        panels_file=path,
    )


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        path = tmp_path / "panels.toml"
        path.write_text(text)
        return load_panels(settings(path))

    return write_and_load


def test_without_a_file_there_is_the_panel_of_the_environment():
    (only,) = load_panels(settings())
    assert (only.name, only.url, only.username) == ("default", "https://one.example.com", "root")
    assert (only.password, only.webhook_secret) == ("hunter2-of-one", "secret-of-one")
    with pytest.raises(ConfigError, match="MARZBAN_URL"):
        load_panels(Settings())


def test_panels_of_the_file_follow_in_its_order_and_take_what_it_does_not_say(load):
    text = TWO + TWO.replace("two", "a-3") + 'webhook_secret = "its-own"\ntimeout_seconds = 3\n'
    first, second, third = load(text)
    assert [first.name, second.name, third.name] == ["default", "two", "a-3"]
    assert (second.url, second.timeout_seconds) == ("https://two.example.com:8000", 7)
    assert (third.webhook_secret, third.timeout_seconds) == ("its-own", 3)


def test_a_panel_has_a_webhook_secret_of_its_own_whether_its_table_says_one_or_not(load):
    text = "".join(TWO.replace("two", name) for name in ("two", "three", "four", "five"))
    text = text.replace("[four]", '[four]\nwebhook_secret = "secret-of-one"')
    text = text.replace("[five]", '[five]\nwebhook_secret = "its-own"')
    first, *others = load(text)
    assert (first.webhook_secret, first.shared_webhook_secret) == ("secret-of-one", "")
    secrets = [panel.webhook_secret for panel in (first, *others)]
    assert len(set(secrets)) == 5, "no panel speaks for another"
    assert secrets[-1] == "its-own"
    assert all(len(secret) == 40 for secret in secrets[1:4])
    shared = [panel.shared_webhook_secret for panel in others]
    assert shared == ["secret-of-one", "secret-of-one", "secret-of-one", ""]
    assert [panel.webhook_secret for panel in load(text)] == secrets, "they stay the same"


def test_without_a_secret_of_the_first_panel_none_is_derived(tmp_path):
    path = tmp_path / "panels.toml"
    path.write_text(TWO)
    _, second = load_panels(replace(settings(path), webhook_secret=""))
    assert (second.webhook_secret, second.shared_webhook_secret) == ("", "")


def test_a_password_is_in_no_representation(load):
    assert "hunter2" not in repr(load(TWO))
    assert "secret-of" not in repr(load(TWO))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[two", "it is not TOML"),
        ("two = 1", "two: expected a table"),
        (TWO.replace("[two]", "[default]"), r"\[default\] is the name of the panel of MARZBAN_URL"),
        (TWO.replace("[two]", "[Two]"), "cannot be a panel's name"),
        (TWO.replace("[two]", '["a/b"]'), "cannot be a panel's name"),
        (TWO.replace("[two]", '[""]'), "cannot be a panel's name"),
        (TWO.replace("[two]", f"[{'x' * 33}]"), "cannot be a panel's name"),
        (TWO.replace('password = "hunter2-of-two"', ""), r"\[two\] password: is required"),
        (TWO.replace('"hunter2-of-two"', "1"), r"\[two\] password: expected a text in quotes"),
        (TWO.replace("https", "ftp"), r"\[two\] url: expected a URL"),
        (TWO.replace("https://", "https://a:hunter2@"), r"\[two\] url: a URL with a name"),
        (TWO + "timeout_seconds = 0", r"\[two\] timeout_seconds: expected a number"),
        (TWO + 'webhook_secret = "a b"', r"\[two\] webhook_secret: expected printable"),
        (TWO + "webhook_secret = 5", r"\[two\] webhook_secret: expected a text"),
        (TWO + "timeout_seconds = '15'", r"\[two\] timeout_seconds: expected a number"),
        (
            TWO + "pasword = 'hunter2'",
            r"\[two\] pasword: is not known here \(did you mean password",
        ),
        (TWO.replace("password", "pasword"), r"password: is required \(is pasword meant to be it"),
        (TWO + "colour = 1", r"\[two\] colour: is not known here; known: api_key"),
        (
            TWO.replace("two.example.com:8000", "ONE.example.com"),
            r"\[two\] url is also the url of panel default",
        ),
        ("".join(TWO.replace("two", f"p{n}") for n in range(64)), "at most 64 panels"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_tells_no_password(load, text, message):
    with pytest.raises(ConfigError, match=f"BRIDGE_PANELS_FILE .*{message}") as refusal:
        load(text)
    assert "hunter2" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"BRIDGE_PANELS_FILE .*: No such file"):
        load_panels(settings(tmp_path / "none.toml"))
    (tmp_path / "latin").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match=r"BRIDGE_PANELS_FILE .*: it is not UTF-8"):
        load_panels(settings(tmp_path / "latin"))


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("Alice", ReportedName("Alice", None)),
        ("Two/Alice", ReportedName("Alice", "two")),
        ("TWO/alice", ReportedName("alice", "two")),
        ("default/alice", ReportedName("alice", "default")),
        ("two/a/b", ReportedName("a/b", "two")),
        ("three/alice", ReportedName("three/alice", None)),
        ("two/", ReportedName("two/", None)),
        ("/alice", ReportedName("/alice", None)),
        ("two", ReportedName("two", None)),
    ],
)
def test_a_slash_tells_a_known_panel_from_a_user(reported, expected):
    assert take_apart(reported, panels=("default", "two")) == expected


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1)


@given(panel=st.from_regex(PANEL_NAME, fullmatch=True), username=NAMES)
def test_what_a_user_is_called_outside_its_panel_leads_back_to_it(panel, username):
    panels = {FIRST_PANEL, panel}
    name = scoped(panel, username)
    found = take_apart(name, panels=panels)
    assert (found.panel or FIRST_PANEL) == panel
    assert found.key == account_key(username)


def test_what_a_typed_limit_means_is_each_panels_own(load):
    text = TWO + 'typed_limit_means = "left, shop=quota"\n' + TWO.replace("two", "three")
    first, second, third = load(text)
    assert str(first.typed_limits) == str(third.typed_limits) == "quota"
    assert str(second.typed_limits) == "left, shop=quota"
    with pytest.raises(ConfigError, match=r"\[two\] typed_limit_means: expected quota or left"):
        load(TWO + 'typed_limit_means = "rest"\n')
    with pytest.raises(ConfigError, match=r"\[two\] typed_limit_means: expected a text"):
        load(TWO + "typed_limit_means = 1\n")
