"""The HTML of the confirm pages: a form, and the result. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

MAX_SHOWN_LENGTH = 255
CSS = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:30rem;margin:2rem auto;padding:0 1rem;"
    "overflow-wrap:anywhere}"
    "h1{font-size:1.4rem}label{display:block;margin:1rem 0}"
    "input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5rem}"
    ".box input{width:auto;margin-right:.5rem}"
    ".problem{border-left:.25rem solid #c33;padding-left:.75rem}"
    ".danger{border:.125rem solid #c33;border-radius:.25rem;padding:.5rem .75rem}"
    "button.destructive{background:#b3261e;border:0;border-radius:.25rem;color:#fff}"
    "dt{float:left;min-width:9rem}dd{margin:0}"
)
_CSS_HASH = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The texts of one confirm page."""

    title: str
    consequence: str
    phrase: str | None = None
    """The phrase to be typed; None for an action on a single user."""
    name: str | None = None
    """The user's name, as in the URL; shown after the title."""
    wants_change: bool = False
    """Observe mode: a box has to be ticked for the panel to be changed."""
    back_url: str = ""
    """The dashboard that the page's link leads back to; empty where none is known."""

    @property
    def is_destructive(self) -> bool:
        """Whether it concerns more than a single user, and looks it."""
        return self.phrase is not None


def ask(question: Question, *, problem: str | None = None) -> str:
    """Return the page with the form, and with `problem` if the last try failed."""
    danger = ' class="danger"' if question.is_destructive else ""
    undone = " <b>This cannot be undone.</b>" if question.is_destructive else ""
    parts = [f"<p{danger}>{escape(question.consequence)}{undone}</p>"]
    if problem:
        parts.append(f'<p class="problem" role="alert">{shown(problem)}</p>')
    parts.append('<form method="post">')
    if question.phrase:
        parts.append(
            f"<label>Type <b>{escape(question.phrase)}</b> to confirm"
            '<input name="confirm" required autocomplete="off" autocapitalize="none"></label>'
        )
    if question.wants_change:
        parts.append(
            '<label class="box"><input type="checkbox" name="change_panel" value="true">'
            "Change the panel all the same</label>"
        )
    destructive = ' class="destructive"' if question.is_destructive else ""
    parts.append(
        "<label>Name of a Marzban admin"
        '<input name="username" required autocomplete="username" autocapitalize="none"></label>'
        "<label>Password"
        '<input name="password" type="password" required autocomplete="current-password"></label>'
        f"<button{destructive}>{escape(question.title)}</button></form>"
    )
    return _page(question, parts)


def tell(question: Question, facts: Iterable[tuple[str, str]]) -> str:
    """Return the page with the result."""
    rows = "".join(f"<dt>{escape(term)}</dt><dd>{shown(value)}</dd>" for term, value in facts)
    return _page(question, [f"<p>Done.</p><dl>{rows}</dl>"])


def refuse(title: str, problem: str, *, back_url: str = "") -> str:
    """Return the page for a URL that is malformed."""
    parts = [f'<p class="problem" role="alert">{shown(problem)}</p>']
    return _page(Question(title=title, consequence="", back_url=back_url), parts)


def shown(text: str) -> str:
    """Return untrusted text as escaped HTML, isolated in its own text direction."""
    if len(text) > MAX_SHOWN_LENGTH:
        text = text[:MAX_SHOWN_LENGTH] + "\N{HORIZONTAL ELLIPSIS}"
    visible = (each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return f"<bdi>{escape(''.join(visible))}</bdi>"


def _page(question: Question, parts: Iterable[str]) -> str:
    heading = escape(question.title)
    if question.name is not None:
        heading += f": {shown(question.name)}"
    back = ""
    if question.back_url:
        back = f'<p><a href="{escape(question.back_url)}">Back to the dashboard</a></p>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(question.title)}</title><style>{CSS}</style></head>"
        f"<body><h1>{heading}</h1>{''.join(parts)}{back}</body></html>"
    )
