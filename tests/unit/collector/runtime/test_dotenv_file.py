"""What a `.env` says, and what of it is refused."""

from __future__ import annotations

import pytest

from collector.known_names import NAMES
from collector.runtime.config import ConfigError
from collector.runtime.config.dotenv_file import parse_dotenv, read_environment


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"),
        ("\ufeffA=1", "1"),
        ("export A = 1 # said here", "1"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A= # nothing", ""),
        ("A=1\nA=2", "2"),
        ('A="b c"', "b c"),
        ("A='b # c'", "b # c"),
        ("A=it's", "it's"),
        ("A=pa$word", "pa$word"),
        ("A='pa${word}'", "pa${word}"),
        ("'A'='${word}'", "${word}"),
        ("A=/${HOME}/x", "//root/x"),
        ('A="${HOME}"', "/root"),
        ("A=${NONE:-x}", "x"),
        ("A=${EMPTY:-x}", "x"),
        ("A=${EMPTY}", ""),
        ("B=2\nA=${B}", "2"),
        ("HOME=/other\nA=${HOME}", "/root"),
    ],
)
def test_a_value_is_what_docker_compose_takes_it_for(text, value):
    assert parse_dotenv(text, {"HOME": "/root", "EMPTY": ""})["A"] == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n\nA='hunter2", "line 3: expected NAME=value"),
        ('A=1\n\nA = "hunter2\nB=1', "line 3: expected NAME=value"),
        ("hunter2 is it", "line 1: expected NAME=value"),
        (
            "A=1\n# B\nB=hunter2${word}",
            r"line 3: B: it has a \$\{…\} of a variable that is not set",
        ),
    ],
)
def test_what_is_malformed_is_refused_by_its_line_and_not_repeated(text, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}") as refused:
        parse_dotenv(text, {})
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES.known:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_environment_goes_before_the_file(folder, monkeypatch):
    (folder / ".env").write_text("COLLECTOR_PORT=1\nCOLLECTOR_HOST=a\n")
    monkeypatch.setenv("COLLECTOR_PORT", "2")
    found = read_environment(NAMES)
    assert (found["COLLECTOR_PORT"], found["COLLECTOR_HOST"]) == ("2", "a")


def test_without_a_file_there_is_the_environment(folder, monkeypatch):
    monkeypatch.setenv("COLLECTOR_PORT", "2")
    assert read_environment(NAMES)["COLLECTOR_PORT"] == "2"
    (folder / ".env").mkdir()
    assert read_environment(NAMES)["COLLECTOR_PORT"] == "2"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"A=\xff", "must be UTF-8 text"),
        (b"A='", "line 1: expected NAME=value"),
        (b"COLLECTOR_PROT=1", r"not known: COLLECTOR_PROT \(did you mean COLLECTOR_PORT\?\)"),
        (b"INFLUXDB_BUCKET=1", "not known: INFLUXDB_BUCKET; correct it"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(folder, content, complaint):
    path = folder / ".env"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}[:,]? {complaint}"):
        read_environment(NAMES)


def test_an_unknown_name_in_the_environment_is_refused(folder, monkeypatch):
    assert not list(folder.iterdir())
    monkeypatch.setenv("BRIDGE_ENFORCMENT", "observe")
    with pytest.raises(ConfigError, match=r"^environment: not known: .*BRIDGE_ENFORCEMENT\?"):
        read_environment(NAMES)
