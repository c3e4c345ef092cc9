"""The line that a write leaves in a user's note: read back exactly, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.quota.writes.note_line import (
    MAX_NOTE_LENGTH,
    NoteLine,
    place_of,
    read_lines,
    with_line,
    without_lines,
)

LINE = NoteLine(
    store="1a2b3c4d",
    number=17,
    place="eu-1.example.com",
    quota_bytes=10 * 2**30,
    limit_bytes=7387398144,
    external_bytes=3350020096,
    total_bytes=9350020096,
)
AMOUNTS = st.integers(0, 2**62)
LINES = st.builds(
    NoteLine,
    store=st.text("0123456789abcdef", min_size=8, max_size=8),
    number=st.integers(1, 10**18 - 1),
    place=st.text("abcXYZ019.-_", max_size=40),
    quota_bytes=st.none() | AMOUNTS,
    limit_bytes=st.none() | AMOUNTS,
    external_bytes=AMOUNTS,
    total_bytes=AMOUNTS,
    is_disabled=st.booleans(),
)
# A form sends line breaks as "\r\n": a "\r" before our line is taken for a part of its break.
ADMINS_TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="[\r"), max_size=200
)


@given(text=st.none() | ADMINS_TEXTS, line=LINES, name=st.text(min_size=1, max_size=32))
def test_what_is_written_is_read_back_and_leaves_the_admins_text_as_it_was(text, line, name):
    name = name.encode(errors="replace").decode()
    noted = with_line(text, line, username=name)
    if noted is None:
        assert len(text or "") > MAX_NOTE_LENGTH - 330
        return
    assert len(noted) <= MAX_NOTE_LENGTH
    assert read_lines(noted, username=name) == [line]
    assert without_lines(noted) == (text or "")


@given(text=ADMINS_TEXTS, first=LINES, second=LINES)
def test_a_second_line_of_a_store_replaces_the_first_and_leaves_anothers(text, first, second):
    noted = with_line(text[:40], first, username="alice") or ""
    noted = with_line(noted, second, username="alice") or ""
    is_one_store = first.store == second.store
    assert read_lines(noted, username="alice") in ([second], [first, second])
    assert (len(read_lines(noted, username="alice")) == 1) is is_one_store
    assert without_lines(noted) == text[:40]


@pytest.mark.parametrize(
    "alter",
    [
        lambda note: note.replace("q10737418240", "q10737418241"),
        lambda note: note.replace(":17@", ":18@"),
        lambda note: note.replace("1a2b3c4d", "1a2b3c4e"),
        lambda note: note[:-1],
        lambda note: note.replace(" t9350020096", " t9350020096 d"),
    ],
)
def test_an_altered_line_is_none(alter):
    assert read_lines(alter(with_line("", LINE, username="alice")), username="alice") == []


def test_a_line_copied_from_another_users_note_is_none_and_is_removed():
    noted = with_line("vip", LINE, username="alice")
    assert read_lines(noted, username="bob") == []
    assert without_lines(noted) == "vip"


def test_an_admins_text_behind_the_line_stays():
    noted = f"{with_line('paid until May', LINE, username='alice')}\nand calls often"
    assert read_lines(noted, username="alice") == [LINE]
    assert without_lines(noted) == "paid until May\nand calls often"
    again = with_line(noted, replace(LINE, number=18), username="alice")
    assert again.startswith("paid until May\nand calls often\nQuota 10.00 GiB")
    assert [line.number for line in read_lines(again, username="alice")] == [18]


def test_a_note_with_a_browsers_line_breaks_is_read():
    noted = with_line("paid", LINE, username="alice").replace("\n", "\r\n")
    assert read_lines(noted, username="alice") == [LINE]
    assert without_lines(noted) == "paid"


def test_a_text_without_room_keeps_the_note_as_it_is():
    assert with_line("x" * 400, LINE, username="alice") is None


def test_an_admin_can_read_it():
    assert with_line("", LINE, username="alice").startswith(
        "Quota 10.00 GiB; 3.12 GiB used elsewhere, so the limit here is 6.88 GiB. [bridge "
    )


def test_a_hosts_name_is_made_to_fit():
    assert place_of("my host/é" + "x" * 60) == ("my-host--" + "x" * 60)[:40]
