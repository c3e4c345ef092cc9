"""What a value may be, from a variable's text and from TOML: one table for all readers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

import collector.settings
import marzban_bridge.config.settings
from collector.runtime.config import ConfigError
from collector.runtime.config.tables import Table
from collector.runtime.config.values import (
    ADDRESS,
    FLAG,
    PASSWORD,
    PATH,
    TEXT,
    WEB_URL,
    comma_list,
    header_text,
    line,
    member_of,
    one_of,
    seconds,
    text,
    whole,
)
from collector.runtime.config.variables import read_variables, variable

NUMBER = "expected a whole number from 1 to 99"
DURATION = "expected a number of seconds from 0.05 to 60"
HEADER = "expected printable ASCII characters without spaces: it goes in a header"
URL = "expected a URL such as https://host.example.com:8000"


class Mode(StrEnum):
    LIMIT = "limit"
    OBSERVE = "observe"


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (whole(1, 99), "8", 8),
        (whole(1, 10**6), "1_000", 1000),
        (seconds(0.05, 60), "1e1", 10.0),
        *((FLAG, raw, True) for raw in ("1", "true", "TRUE", "Yes", "on")),
        *((FLAG, raw, False) for raw in ("0", "false", "False", "no", "OFF")),
        (TEXT, "a $ 'b'", "a $ 'b'"),
        (PATH, "a/b", Path("a/b")),
        (WEB_URL, "https://a.example:1/x//", "https://a.example:1/x"),
        (ADDRESS, "[::1]:80", ("::1", 80)),
        (header_text(3), "a:b", "a:b"),
        (PASSWORD, "ключ", "ключ"),
        (text(comma_list, empty=()), " a, b c ,,", ("a", "b c")),
        (member_of(Mode), "observe", Mode.OBSERVE),
    ],
)
def test_text_is_read_generously(kind, raw, value):
    assert kind.of_text(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (whole(1, 99), "eighty", f"{NUMBER}, not 'eighty'"),
        (whole(1, 99), "1.5", f"{NUMBER}, not '1.5'"),
        (whole(1, 99), "100", f"{NUMBER}, not '100'"),
        (whole(1, 99), "9" * 5000, NUMBER),
        (whole(1, 99), "rk_a-key-of-twenty-chars", NUMBER),
        (seconds(0.05, 60), "soon", f"{DURATION}, not 'soon'"),
        (seconds(0.05, 60), "nan", f"{DURATION}, not 'nan'"),
        (seconds(0.05, 60), "inf", f"{DURATION}, not 'inf'"),
        (FLAG, "maybe", "expected true or false, not 'maybe'"),
        (one_of(("ab", "cd")), "abb", "expected one of ab, cd, not 'abb' (did you mean ab?)"),
        (
            member_of(Mode),
            "limits",
            "expected one of limit, observe, not 'limits' (did you mean lim",
        ),
        (WEB_URL, "a.example", URL),
        (WEB_URL, "http://a b", URL),
        (WEB_URL, "http://a\x7fb", URL),
        (WEB_URL, "http://a:99999", URL),
        (WEB_URL, "http://:pw@a", "a URL with a name and password in it would end up in logs"),
        (ADDRESS, "9105", "expected host:port such as 127.0.0.1:8080"),
        (ADDRESS, "a:٣", "expected host:port such as 127.0.0.1:8080"),
        (header_text(), "ключ", HEADER),
        (header_text(), "a b", HEADER),
        (header_text(20), "hunter2", "expected at least 20 characters, better 40 random ones"),
        (PASSWORD, "a b", "expected printable characters without spaces"),
    ],
)
def test_what_is_expected_is_said_and_no_secret(kind, raw, complaint):
    with pytest.raises(ValueError, match=r"expected|logs") as refused:
        kind.of_text(raw)
    assert str(refused.value).startswith(complaint)
    assert len(raw) < 16 or raw not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (whole(1, 99), "8"),
        (whole(1, 99), True),
        (whole(1, 99), 8.0),
        (seconds(0.05, 60), "15"),
        (seconds(0.05, 60), True),
        (seconds(0.05, 60), float("nan")),
        (FLAG, "true"),
        (FLAG, 1),
        (TEXT, 5),
        (TEXT, ""),
        (PATH, ""),
        (WEB_URL, 5),
        (ADDRESS, 8080),
        (header_text(), ["a"]),
        (one_of(("ab",)), ["ab"]),
        (one_of(("ab",)), 3),
        (member_of(Mode), True),
        (line(5), ""),
        (line(5), "abcdef"),
        (line(5), "a\n"),
        (line(5), "a\\"),
        (line(5, is_trimmed=True), "a "),
    ],
)
def test_toml_has_types_and_is_read_strictly(kind, value):
    with pytest.raises(ConfigError, match=r"^\[here\] key: expected "):
        Table("[here]", {"key": value}).get("key", kind)


@dataclass(frozen=True)
class Sample:  # the field factory only looks like a call with side effects
    port: int = variable("X_PORT", 8080, "", whole(0, 65535))
    key: str = variable("X_KEY", "", "", header_text(20), is_secret=True)
    file: Path | None = variable("X_FILE", "", "", PATH)  # noqa: RUF009
    names: tuple[str, ...] = variable("X_NAMES", "", "", text(comma_list, empty=()))


def test_unset_and_empty_variables_take_their_defaults():
    assert read_variables(Sample, {"X_PORT": " ", "X_KEY": ""}) == Sample(8080, "", None, ())
    assert read_variables(Sample, {"X_PORT": " 1 ", "X_NAMES": "a"}) == Sample(1, names=("a",))
    assert "hunter2" not in repr(read_variables(Sample, {"X_KEY": "hunter2" * 3}))


@pytest.mark.parametrize(
    "name",
    [
        each.name
        for settings in (collector.settings.Settings, marzban_bridge.config.settings.Settings)
        for each in settings.variables()
        if each.default.replace(".", "", 1).isdigit()
    ],
)
def test_what_is_no_number_is_told_what_is_expected(name):
    for settings in (collector.settings.Settings, marzban_bridge.config.settings.Settings):
        if name in {each.name for each in settings.variables()}:
            with pytest.raises(ConfigError, match=f"^{name}: expected a .*number.*, not 'many'$"):
                settings.from_env({name: "many"})


def test_both_programs_refuse_the_same_admin_key():
    for settings in (collector.settings.Settings, marzban_bridge.config.settings.Settings):
        with pytest.raises(ConfigError, match=r"^COLLECTOR_ADMIN_KEY: expected at least 20"):
            settings.from_env({"COLLECTOR_ADMIN_KEY": "hunter2"})
