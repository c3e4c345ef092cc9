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
    for name in NAMES.known | {f"{each}_FILE" for each in NAMES.may_be_in_file}:
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


@pytest.mark.parametrize("name", sorted(NAMES.may_be_in_file))
def test_every_secret_may_be_in_a_file(folder, monkeypatch, name):
    path = folder / "secret"
    path.write_text("pa$word '#1 \n")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    (folder / ".env").write_text(f"{name}=\n")  # empty, as in .env.example
    found = read_environment(NAMES)
    assert found[name].strip() == "pa$word '#1"
    assert f"{name}_FILE" not in found


def test_a_file_of_a_secret_may_be_named_in_the_env_file_and_may_be_empty(folder):
    (folder / "secret").write_text("\n")
    (folder / ".env").write_text("MARZBAN_API_KEY_FILE=secret\nMARZBAN_PASSWORD_FILE=\n")
    found = read_environment(NAMES)
    assert found["MARZBAN_API_KEY"].strip() == ""
    assert "MARZBAN_PASSWORD" not in found


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "MARZBAN_PASSWORD_FILE: .*secret: No such file or directory"),
        (b"hunter\xff", "MARZBAN_PASSWORD_FILE: .*secret: it is not UTF-8"),
    ],
)
def test_a_file_of_a_secret_that_cannot_be_read_is_said_by_its_name(folder, content, complaint):
    path = folder / "secret"
    if content is not None:
        path.write_bytes(content)
    (folder / ".env").write_text(f"MARZBAN_PASSWORD_FILE={path}\n")
    with pytest.raises(ConfigError, match=f"^{complaint}") as refused:
        read_environment(NAMES)
    assert "hunter" not in str(refused.value)


def test_a_secret_is_given_itself_or_as_a_file(folder):
    (folder / "secret").write_text("hunter2")
    (folder / ".env").write_text("MARZBAN_PASSWORD=hunter3\nMARZBAN_PASSWORD_FILE=secret\n")
    with pytest.raises(ConfigError, match=r"^MARZBAN_PASSWORD: .*not both") as refused:
        read_environment(NAMES)
    assert "hunter" not in str(refused.value)


def test_the_file_of_influxdbs_token_is_not_read_at_the_start(folder):
    (folder / ".env").write_text("INFLUXDB_TOKEN_FILE=not-there-yet\n")
    assert read_environment(NAMES)["INFLUXDB_TOKEN_FILE"] == "not-there-yet"
