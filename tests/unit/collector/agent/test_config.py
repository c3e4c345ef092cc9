"""The configuration: what it may say, and the one line that tells what is wrong with it."""

from __future__ import annotations

import pytest

from collector.agent.config import file as config_file
from collector.agent.config import settings as config
from collector.agent.config.users import UserMap, compile_pattern
from collector.agent.requests import CommandRequest, HttpGet
from collector.runtime.config import ConfigError

FILES = {"key": "rk_a-key-in-a-file\n", "users.toml": '"their name" = "alice"', "broken.toml": "="}
HEAD = """
[collector]
url = "https://traffic.example.com/"
key = "rk_the-key-itself"

[agent]
server = "de-1"
"""


def read_file(name):
    if name not in FILES:
        raise FileNotFoundError(2, "No such file or directory", name)
    return FILES[name]


def parse(text):
    return config.parse(text, read_file=read_file)


def source(text, head=HEAD):
    (only,) = parse(f'{head}\n[[source]]\nname = "here"\n{text}').sources
    return only


def refused(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert "rk_" not in message
    return message


def test_little_has_to_be_said():
    found = parse(f'{HEAD}[[source]]\nname = "x"\nkind = "xray-vars"')
    assert found.collector_url == "https://traffic.example.com"
    assert "rk_the-key" not in repr(found)
    (only,) = found.sources
    assert only.request == HttpGet("http://127.0.0.1:11111/debug/vars")
    assert (only.server, only.port, only.protocol) == ("de-1", 0, "unknown")
    assert (only.interval_seconds, only.count_first) == (30, False)


def test_a_source_may_differ_from_the_rest():
    only = source(
        'kind = "hysteria2"\nurl = "http://127.0.0.1:9999"\nsecret = "s3cret"\nserver = "de-2"\n'
        "port = 443\nprotocol = 'hy2'\ninterval_seconds = 5\ncount_first = true"
    )
    assert only.request == HttpGet("http://127.0.0.1:9999/traffic", {"authorization": "s3cret"})
    assert (only.server, only.port, only.protocol) == ("de-2", 443, "hy2")
    assert only.count_first
    assert "s3cret" not in repr(only)


def test_a_key_may_be_in_a_file():
    head = HEAD.replace('key = "rk_the-key-itself"', 'key_file = "key"')
    assert parse(f'{head}[[source]]\nname = "x"\nkind = "wireguard"').key == "rk_a-key-in-a-file"


def test_commands_are_words_for_no_shell():
    assert source('kind = "wireguard"').request == CommandRequest(("wg", "show", "all", "transfer"))
    assert source('kind = "amneziawg"').request == CommandRequest(
        ("awg", "show", "all", "transfer")
    )
    assert source('kind = "command"\ncommand = ["my", "tool"]').request == CommandRequest(
        ("my", "tool")
    )


@pytest.mark.parametrize(
    ("command", "around"),
    [
        (
            '["xray", "api", "statsquery", "--server=[::1]:85", "-pattern", "user>>>"]',
            ("xray", "api", "statssys", "--server=[::1]:85"),
        ),
        (
            '["docker", "exec", "x", "xray", "api", "statsquery", "-s", "h:1", "--pattern=u"]',
            ("docker", "exec", "x", "xray", "api", "statssys", "-s", "h:1"),
        ),
        ('["/opt/read-xray"]', ()),
    ],
)
def test_xray_s_command_is_asked_for_the_uptime_of_the_same_server(command, around):
    request = source(f'kind = "xray-command"\ncommand = {command}').request
    assert isinstance(request, CommandRequest)
    assert request.around == around
    assert "statssys" not in request.fingerprint


def test_what_is_known_of_each_kind_is_filled_in():
    assert source('kind = "outline"').protocol == "shadowsocks"
    assert source('kind = "singbox-ssm"').request == HttpGet(
        "http://127.0.0.1:9000/server/v1/stats"
    )
    assert source('kind = "xray-grpc"').request.url == "http://127.0.0.1:10085"
    assert source('kind = "xray-grpc"\naddress = "[::1]:5"').request.url == "http://[::1]:5"
    assert source('kind = "singbox-grpc"').request.service.startswith("v2ray.")
    only = source('kind = "remnawave"\npassword = "s3cret"\nnodes = { 3 = "de-3" }')
    assert only.request.stream == "ioraw:export:user_usage"
    assert only.request.nodes == {"3": "de-3"}
    assert "s3cret" not in repr(only)


def test_a_kind_whose_library_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "find_spec", lambda name: None)
    path = tmp_path / "agent.toml"
    path.write_text(SOURCE + 'kind = "remnawave"')
    with pytest.raises(ConfigError, match=r"\[redis\]'$") as caught:
        config_file.load(path)
    assert f'{path}: source "wg" kind: remnawave needs the extra' in str(caught.value)


def test_names_are_found_by_pattern_and_table():
    only = source("kind = 'xray-vars'\n[source.users]\nregex = '\\d+\\.(?P<user>.+)'")
    assert only.users.username("7.bob") == "bob"
    assert only.users.username("bob") is None
    only = source('kind = "xray-vars"\n[source.users]\ntable = { "k" = "alice" }')
    assert (only.users.username("k"), only.users.username("x")) == ("alice", None)
    only = source('kind = "xray-vars"\n[source.users]\ntable_file = "users.toml"')
    assert only.users.username("their name") == "alice"
    both = UserMap(compile_pattern(r"(?P<user>\w+)@.*"), {"a": "alice"})
    assert (both.username("a@x"), both.username("b@x")) == ("alice", None)
    assert UserMap().username("as-it-is") == "as-it-is"
    assert (UserMap().username(" alice "), UserMap().username(" ")) == ("alice", None)


def test_counters_of_another_place_are_not_compared():
    prints = {
        source(text).fingerprint
        for text in (
            'kind = "xray-vars"',
            'kind = "xray-vars"\nurl = "http://127.0.0.1:1/debug/vars"',
            'kind = "wireguard"',
            'kind = "amneziawg"\ncommand = ["wg", "show", "all", "transfer"]',
        )
    }
    assert len(prints) == 4
    assert source('kind = "wireguard"\nport = 5').fingerprint in prints


SOURCE = f'{HEAD}[[source]]\nname = "wg"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "it is not TOML"),
        ("[agent]\n", "collector: is required"),
        ("agent = 1", "agent: expected a table, as in [agent]"),
        ('[collector]\nurl = "x"', "[collector] url: expected a URL such as http"),
        (
            '[collector]\nurl = "https://u:p@x"\nkey="rk_k"',
            "[collector] url: a URL with a name and password",
        ),
        ('[collector]\nurl = "https://x"', "[collector] key: is required (or key_file)"),
        (
            '[collector]\nurl = "https://x/v1/reports/"\nkey="rk_k"',
            "[collector] url: leave out /v1",
        ),
        (
            '[collector]\nurl = "https://x/v1/sources/3x-ui/rk_k"\nkey="rk_k"',
            "[collector] url: leave out /v1",
        ),
        (
            '[collector]\nurl = "https://x"\nkey_file = "no"',
            "[collector] key_file: cannot be read",
        ),
        (
            '[collector]\nurl = "https://x"\nkey="rk_a"\nkey_file="key"',
            "[collector] key: give it or",
        ),
        ('[collector]\nurl = "https://x"\nkey="rk_ a"', "[collector] key: expected printable"),
        ('[collector]\nurl = "https://x"\nkey="rk_é"', "[collector] key: expected printable ASCII"),
        (
            '[collector]\nurl = "https://x"\nkee="rk_a"',
            "[collector] key: is required (or key_file) (is kee meant to be it?)",
        ),
        ('[collector]\nurl = "https://a:99999"\nkey="rk_k"', "[collector] url: expected a URL"),
        (HEAD, "there is no [[source]]"),
        (HEAD + "[[sources]]", "sources: is not known here (did you mean source?)"),
        (HEAD + "intervall = 3", "[agent] intervall: is not known here"),
        (HEAD + "metrics_listen = '9105'", "[agent] metrics_listen: expected host:port"),
        (HEAD + "[[source]]\nkind = 'wireguard'", "source 1 name: is required"),
        (SOURCE, 'source "wg" kind: is required'),
        (SOURCE + "kind = 'wiregard'", "(did you mean wireguard?)"),
        (
            SOURCE + "kind = 'clash'",
            'source "wg" kind: Clash\'s /connections does not name the user',
        ),
        (
            SOURCE + "kind = 'wireguard'\ncommand = 'wg show'",
            'source "wg" command: expected a list',
        ),
        (SOURCE + "kind = 'wireguard'\nurl = 'x'", 'source "wg" url: is not known here'),
        (
            SOURCE + "kind = 'xray-command'\ncommand = ['xray', '-reset']",
            'source "wg" command: leave out -reset',
        ),
        (
            SOURCE + "kind = 'hysteria2'\nurl = 'http://x/traffic?clear=1'",
            'source "wg" url: leave out `clear`',
        ),
        (
            SOURCE + "kind = 'singbox-ssm'\nurl = 'http://x/?clear=true'",
            'source "wg" url: leave out `clear`',
        ),
        (
            SOURCE + "kind = 'outline'\nurl = 'https://x:1/secret/metrics/transfer'",
            'source "wg" url: /metrics/transfer is a sliding window of 30 days',
        ),
        (SOURCE + "kind = 'xray-grpc'\naddress = 'x'", 'source "wg" address: expected host:port'),
        (
            SOURCE + "kind = 'remnawave'\nurl = 'http://x'",
            'source "wg" url: expected a URL such as redis',
        ),
        (
            SOURCE + "kind = 'remnawave'\nurl = 'redis://:pw@x'",
            'source "wg" url: a URL with a name and password',
        ),
        (SOURCE + "kind = 'remnawave'\nnodes = [1]", 'source "wg" nodes: expected a table'),
        (SOURCE + "kind = 'wireguard'\nport = 70000", 'source "wg" port: expected a whole number'),
        (SOURCE + "kind = 'wireguard'\nport = true", 'source "wg" port: expected a whole number'),
        (SOURCE + "kind = 'wireguard'\ninterval_seconds = 0", 'source "wg" interval_seconds: '),
        (SOURCE + "kind = 'wireguard'\ncount_first = 1", 'source "wg" count_first: expected true'),
        (
            SOURCE + "kind = 'wireguard'\nserver = ''",
            'source "wg" server: expected 1 to 255 printable',
        ),
        (
            SOURCE + "kind = 'wireguard'\n[source.users]\nregex = '('",
            'source "wg" users.regex: is no',
        ),
        (SOURCE + "kind = 'wireguard'\n[source.users]\nregex = '.*'", "must have a group"),
        (
            SOURCE + "kind = 'wireguard'\n[source.users]\ntable = 3",
            'source "wg" users.table: expected',
        ),
        (
            SOURCE + "kind = 'wireguard'\n[source.users]\ntable_file = 'broken.toml'",
            "table_file: cannot",
        ),
        (SOURCE + "kind = 'wireguard'\n[source.users]\ntabel = {}", "did you mean table?"),
        (
            SOURCE + "kind = 'wireguard'\n[[source]]\nname = 'wg'\nkind = 'wireguard'",
            "another source",
        ),
        (
            HEAD.replace('server = "de-1"', "") + "[[source]]\nname='wg'\nkind='wireguard'",
            'source "wg" server: is required here or in [agent]',
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place_and_the_key(text, message):
    assert message in refused(text)


def test_hysteria_spells_names_in_lower_case_and_a_table_need_not():
    source = "[collector]\nurl = 'http://c'\nkey = 'k'\n[agent]\nserver = 'de-1'\n[[source]]\nname = 'x'\n"
    users = "[source.users]\ntable = { Alice = 'Alice', BOB = 'bob' }\n"
    mapped = {}
    for kind in ("hysteria2", "xray-vars"):
        (only,) = config.parse(f"{source}kind = '{kind}'\n{users}", read_file=lambda _: "").sources
        mapped[kind] = [only.users.username(each) for each in ("alice", "bob", "Alice")]
    assert mapped == {
        "hysteria2": ["Alice", "bob", "Alice"],
        "xray-vars": [None, None, "Alice"],
    }
