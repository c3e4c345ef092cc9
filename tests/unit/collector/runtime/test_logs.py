"""One event is one line in the log, and nothing in it steers the terminal that shows it."""

from __future__ import annotations

import io
import logging
import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.runtime.cli import run_command
from collector.runtime.listening import ListenError
from collector.runtime.logs import OneLineFormatter

CLEAR_SCREEN = "\x1b[2J"


def written(text: str, error: BaseException | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(name)s %(message)s"))
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("x", logging.INFO, "f", 1, "user=%s done", (text,), exc_info)
    handler.handle(record)
    return stream.getvalue()


@given(name=st.text())
@example(name="bob\nERROR forged")
@example(name="bob\r\n\x85\u2028\u2029x")
@example(name=CLEAR_SCREEN)
@example(name="\x9b31m\u202e\ud800")
def test_a_name_stays_in_its_line(name):
    line = written(name)
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert line.startswith("INFO x user=")


def test_what_can_be_printed_is_written_as_it_is():
    assert written("Зоя 🚀 o'neil") == "INFO x user=Зоя 🚀 o'neil done\n"


def test_no_line_of_a_traceback_begins_like_an_event():
    try:
        raise ValueError("boom\n2026-01-01T00:00:00Z INFO forged" + CLEAR_SCREEN)
    except ValueError as error:
        first, *others = written("bob", error).splitlines()
    assert first == "INFO x user=bob done"
    assert others
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert "    2026-01-01T00:00:00Z INFO forged\\x1b[2J" in others


def test_a_command_complains_on_one_line_that_steers_nothing(capsys):
    text = f"[/bold]no\nERROR forged{CLEAR_SCREEN}"

    def refuse():
        raise ValueError(text)

    assert run_command(refuse, errors=(ValueError,)) == 1
    assert capsys.readouterr().err == "error: [/bold]no ERROR forged\\x1b[2J\n"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ValueError("no"), 2, "error: no"),
        (ListenError("cannot listen"), 1, "error: cannot listen"),
        (sqlite3.OperationalError("malformed"), 1, "error: explained: malformed"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "error: /x: No such file"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_goes_wrong_in_a_command_is_one_line_and_a_code(capsys, raised, code, line):
    def fail():
        raise raised

    assert (
        run_command(
            fail,
            errors=(ValueError,),
            code_of=lambda _: 2,
            explain=lambda error: f"explained: {error}",
        )
        == code
    )
    assert capsys.readouterr().err.strip() == line


def test_a_fault_of_the_program_itself_is_a_traceback():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(fail, errors=(ValueError,))
