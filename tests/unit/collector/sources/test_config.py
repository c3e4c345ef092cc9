"""The sources file: what may be in it, and one clear line about what may not."""

from __future__ import annotations

import pytest

from collector.runtime.config import ConfigError
from collector.sources.config import EMPTY, read_sources
from collector.sources.file import Sources, load_sources
from collector.sources.three_x_ui import ThreeXUi
from collector.sources.uniproxy import Place
from collector.sources.users import AS_THEY_ARE

WHOLE = """
[3x-ui.de-1]
server = "de-1.example.com"
port = 443
protocol = "vless"
users = { pattern = '(?P<username>.+)-de' }

[3x-ui.nl-2]

[uniproxy.shop]
retry_window_seconds = 35
nodes = { 7 = "fr-1", "Trojan/3" = { server = "fr-2", port = 8443 } }
[uniproxy.shop.users.table]
42 = "alice"
"""


def test_a_file_says_of_each_reporter_what_its_source_does_not_say_of_itself():
    config = read_sources(WHOLE)
    panel = config.three_x_ui("de-1")
    assert (panel.server, panel.port, panel.protocol) == ("de-1.example.com", 443, "vless")
    assert panel.users.username_of("alice-de") == "alice"
    assert config.three_x_ui("nl-2") == ThreeXUi("nl-2", 0, "unknown", AS_THEY_ARE)
    shop = config.uniproxy("shop")
    assert shop.nodes == {"7": Place("fr-1"), "trojan/3": Place("fr-2", 8443)}
    assert shop.users.username_of("42") == "alice"
    assert shop.retry_window_seconds == 35


def test_without_a_file_a_3x_ui_is_called_like_its_reporter_and_nobody_knows_whose_ids_nodes_push():
    assert EMPTY.three_x_ui("de-1") == ThreeXUi("de-1")
    assert EMPTY.uniproxy("de-1") is None
    assert load_sources(None) == EMPTY == read_sources("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3x-ui.a]\nserver =\n", "it is not TOML.*line 2"),
        ("[x-ui.a]", r"\[x-ui\] is not a kind of source; known: 3x-ui, uniproxy"),
        ("3x-ui = 3", r"3x-ui: expected a table, as in"),
        ("[3x-ui]\na = 3", r"\[3x-ui\] a: expected a table"),
        ("[3x-ui.'a b']", "'a b' is not a valid reporter's name"),
        ("[3x-ui.a]\nserer = 'x'", r"\[3x-ui.a\] serer: is not known here \(did you mean server\?"),
        ("[3x-ui.a]\nserver = ''", r"\[3x-ui.a\] server: expected 1 to 255 printable"),
        ("[3x-ui.a]\nserver = 'a\\'", "the last no backslash"),
        ("[3x-ui.a]\nserver = 'a '", "the first and last no blank"),
        ("[3x-ui.a]\nserver = 3", r"\[3x-ui.a\] server: expected 1 to 255 printable"),
        ("[3x-ui.a]\nport = 70000", r"\[3x-ui.a\] port: expected a port from 1 to 65535"),
        ("[3x-ui.a]\nport = true", "expected a port"),
        ("[3x-ui.a]\nport = '443'", "expected a port"),
        ("[3x-ui.a]\nprotocol = 'a b'", r"\[3x-ui.a\] protocol: expected a word"),
        ("[3x-ui.a]\nusers = 'x'", r'\[3x-ui.a\] users: expected "identity"'),
        ("[3x-ui.a]\nusers = {}", "users: expected one of"),
        ("[3x-ui.a]\nusers = { pattern = 'a', table = {} }", "users: expected one of"),
        (
            "[3x-ui.a]\nusers = { tabel = {} }",
            r"users.tabel: is not known here \(did you mean table",
        ),
        ("[3x-ui.a]\nusers = { pattern = '(' }", "it is not a regular expression"),
        ("[3x-ui.a]\nusers = { pattern = '(.*)' }", r"it needs a group \(\?P<username>"),
        ("[3x-ui.a]\nusers = { pattern = 3 }", "a regular expression in quotes"),
        ("[3x-ui.a]\nusers = { table = { x = 3 } }", "users.table.x: expected 1 to"),
        ("[uniproxy.a]", r"\[uniproxy.a\] users: is required"),
        ("[uniproxy.a]\nusers = 'identity'\nnodes = { 'a b' = 'x' }", "nodes.a b: expected a node"),
        ("[uniproxy.a]\nusers = 'identity'\nnodes = { 7 = 3 }", "nodes.7: expected 1 to 255"),
        ("[uniproxy.a]\nusers = 'identity'\nnodes = { 7 = {} }", "nodes.7.server: is required"),
        ("[uniproxy.a]\nusers = 'identity'\nnodes = 3", "nodes: expected a table"),
        ("[uniproxy.a]\nusers = 'identity'\nretry_window_seconds = 3600", "from 0.*to 600"),
        ("[uniproxy.a]\nusers = 'identity'\nretry_window_seconds = true", "expected a number"),
        ("[uniproxy.a]\nusers = 'identity'\nretry_window_seconds = nan", "expected a number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_where_it_is(text, message, tmp_path):
    path = tmp_path / "sources.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_sources(path)
    assert str(caught.value).startswith(f"COLLECTOR_SOURCES_FILE {path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    path = tmp_path / "sources.toml"
    with pytest.raises(ConfigError, match=r"sources\.toml: No such file"):
        load_sources(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"sources\.toml: it is not UTF-8"):
        load_sources(path)


def written(path, text):
    """Replace a file as careful editors do."""
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def test_a_file_that_changes_is_read_again_within_a_second(tmp_path):
    path = tmp_path / "sources.toml"
    written(path, "[3x-ui.a]\nserver = 'old'\n")
    sources = Sources(path)
    assert sources.config(now_seconds=10).three_x_ui("a").server == "old"
    written(path, "[3x-ui.a]\nserver = 'new'\n")
    assert sources.config(now_seconds=10.5).three_x_ui("a").server == "old"
    assert sources.config(now_seconds=11).three_x_ui("a").server == "new"


def test_a_file_that_is_made_wrong_is_complained_about_once_and_the_last_good_one_holds(
    tmp_path, caplog
):
    path = tmp_path / "sources.toml"
    written(path, "[3x-ui.a]\nserver = 'good'\n")
    sources = Sources(path)
    written(path, "[3x-ui.a]\nsever = 'bad'\n")
    for now_seconds in (1, 3, 5):
        assert sources.config(now_seconds=now_seconds).three_x_ui("a").server == "good"
    assert caplog.text.count("sever: is not known here") == 1
    assert "stays in use" in sources.problem
    path.unlink()
    assert sources.config(now_seconds=7).three_x_ui("a").server == "good"
    assert "No such file" in sources.problem
    written(path, "[3x-ui.a]\nserver = 'mended'\n")
    assert sources.config(now_seconds=9).three_x_ui("a").server == "mended"
    assert sources.problem is None
