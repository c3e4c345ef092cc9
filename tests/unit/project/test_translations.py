"""The README in other languages has the headings, commands and links of the English one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LANGUAGES = ("ru", "fa")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def text_of(language: str) -> str:
    suffix = f".{language}" if language else ""
    return (ROOT / f"README{suffix}.md").read_text(encoding="utf-8")


def headings(text: str) -> list[int]:
    """Return the levels of a page's headings, in order."""
    return [len(each) for each in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]


def links(text: str) -> list[str]:
    """Return where a page links to, other than to itself in another language."""
    return sorted(
        each
        for each in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", text))
        if not re.fullmatch(r"README(\.\w\w)?\.md", each)
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_same_headings_commands_and_links(language):
    """A command or heading that is changed in one page is changed in all three."""
    english, translated = text_of(""), text_of(language)
    assert headings(translated) == headings(english)
    assert BLOCK.findall(translated) == BLOCK.findall(english)
    assert links(translated) == links(english)


@pytest.mark.parametrize("language", ["", *LANGUAGES])
def test_each_names_the_others(language):
    text = text_of(language)
    for other in {"", *LANGUAGES} - {language}:
        assert f"](README{f'.{other}' if other else ''}.md)" in text
