"""The confirm pages' HTML: foreign text stays text, and nothing but the page's own style applies."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from marzban_bridge.api import pages
from marzban_bridge.api.pages import Question

HOSTILE = [
    "<script>alert(1)</script>",
    "</bdi></h1><img src=x onerror=alert(1)>",
    "\"'><input name=password>",
    "&lt;script&gt;",
    "-->",
    "\u202egnp.exe",
    "\x00\x1b[2J\r\n",
    "مريم",
    "👩\u200d🚀 🚀",
    "x" * 5000,
    "",
]
OWN_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "bdi", "form", "label", "b"),
    *("input", "button", "dl", "dt", "dd"),
}


class Reader(HTMLParser):
    """Reads a page as a browser does: which elements there are, and which text in which."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.foreign: list[str] = []
        self.texts: list[str] = []
        self._stack: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "bdi":
            self.foreign.append("")
        if tag not in {"meta", "input"}:
            self._stack.append(tag)

    def handle_endtag(self, tag):
        assert self._stack.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "bdi" in self._stack:
            self.foreign[-1] += data

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    @property
    def fields(self):
        return [attributes["name"] for tag, attributes in self.elements if tag == "input"]


def question(name=None, phrase=None):
    return Question(title="Reset usage", name=name, phrase=phrase, consequence="All begins anew.")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_text_wherever_it_is_shown(name):
    for page in (
        pages.ask(question(name), problem=name),
        pages.tell(question(name), [("Status", name)]),
        pages.refuse("Clean up", name),
    ):
        read = Reader(page)
        assert read.tags <= OWN_TAGS
        assert not {key for _, attributes in read.elements for key in attributes if key[:2] == "on"}
        assert read.foreign
        for text in read.foreign:
            assert text.isprintable()
            assert len(text) <= pages.MAX_SHOWN_LENGTH + 1
            expected = "".join(each if each.isprintable() else "\ufffd" for each in name)
            assert text.rstrip("…") == expected[: pages.MAX_SHOWN_LENGTH]


@pytest.mark.parametrize(
    ("phrase", "fields"),
    [(None, ["username", "password"]), ("cleanup", ["confirm", "username", "password"])],
)
def test_a_form_asks_for_a_password_and_words_where_words_are_needed(phrase, fields):
    read = Reader(pages.ask(question(phrase=phrase)))
    assert read.fields == fields
    ((_, form),) = [each for each in read.elements if each[0] == "form"]
    assert form == {"method": "post"}
    assert (phrase in read.texts) == bool(phrase)


def test_a_form_holds_nothing_that_was_typed_before():
    read = Reader(pages.ask(question("alice", phrase="cleanup"), problem="wrong"))
    assert not [1 for tag, attributes in read.elements if tag == "input" and "value" in attributes]


def test_the_style_is_the_one_the_policy_allows_and_all_else_is_forbidden():
    page = pages.ask(question())
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(
        part.strip().split(" ", 1) for part in pages.HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert "style=" not in page
