"""Whose report is it: tells usernames from subscription tokens; pure.

| panel | subscription token |
|---|---|
| Marzban 0.8.4 | base64url of `username,unixtime`, followed by ten characters of a signature |
| Marzban, older | a JWT |
| PasarGuard 5.2.1 | base64url of `v3,user number,unixtime`, a dot, 43 characters of a signature |

PasarGuard also takes the tokens of its time as a Marzban. Subscription URLs carry a token after
their path prefix.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from urllib.parse import urlsplit

FIRST_PANEL = "default"
"""What the panel of `MARZBAN_URL` is called; its users are called by their names alone."""
PANEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""What another panel is called, whose users are `two/alice`: as in the bridge's panels file."""

SHORTEST_TOKEN = 15
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{SHORTEST_TOKEN},512}}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{10,400}\.[A-Za-z0-9_-]{10,600}\.[A-Za-z0-9_-]{10,400}")
_PAYLOAD = re.compile(r".{1,128},[0-9]{9,11}")
_SIGNATURE_LENGTH = 10
_NUMBERED = re.compile(r"[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{43}")
_NUMBERED_PAYLOAD = re.compile(r"v3,[0-9]{1,19},[0-9]{9,11}")


def subscription_token(user_token: str) -> str | None:
    """Return the token within a subscription token or URL; None for what is a plain username.

    Only the token is ever taken from a URL: who is asked about it is for the settings to say. A
    panel that is not told its address shows links without one (`/sub/TOKEN`). A blank around any of
    them is none of it, and is left by copying.
    """
    user_token = user_token.strip()
    if is_url(user_token) or user_token.startswith("/"):
        try:
            segments = [part for part in urlsplit(user_token).path.split("/") if part]
        except ValueError:
            return None
        return next((part for part in reversed(segments) if is_token(part)), None)
    return user_token if is_token(user_token) else None


def name_within(user_token: str) -> str | None:
    """Return the username in a name, token or URL, without verifying it at a panel.

    None for a URL without a token, and for a token of PasarGuard: it carries a number. For what an
    admin brings along, never for what strangers send.
    """
    token = subscription_token(user_token)
    if token is None:
        return None if is_url(user_token) else user_token
    if _is_numbered(token):
        return None
    if _JWT.fullmatch(token):
        return _subject(token) or token
    return _payload(token).rpartition(",")[0] or token


def _subject(jwt: str) -> str | None:
    try:
        claims = json.loads(_decode(jwt.split(".")[1]))
    except (ValueError, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) and subject else None


def is_plainly_a_name(user_token: str) -> bool:
    """Tell that a text is neither a token nor a URL; most usernames are told so at a glance."""
    if ":" in user_token:
        return False
    if len(user_token) < SHORTEST_TOKEN:
        return True
    user_token = user_token.strip()
    return not user_token.startswith("/") and not is_token(user_token)


def is_url(user_token: str) -> bool:
    """Tell whether a text is a URL."""
    return user_token.lstrip()[:8].lower().startswith(("http://", "https://"))


def is_token(text: str) -> bool:
    """Tell whether a text has the form of a subscription token; its signature is not checked."""
    if _JWT.fullmatch(text) or _is_numbered(text):
        return True
    if not _TOKEN.fullmatch(text):
        return False
    return _PAYLOAD.fullmatch(_payload(text)) is not None


def _is_numbered(text: str) -> bool:
    """Tell whether a text has the shape of a PasarGuard token, which names a user by number."""
    if not _NUMBERED.fullmatch(text):
        return False
    return _NUMBERED_PAYLOAD.fullmatch(_text_of(text.partition(".")[0])) is not None


def _payload(token: str) -> str:
    """Return what is signed in a token of Marzban; nothing for what is no base64 of a text."""
    return _text_of(token[:-_SIGNATURE_LENGTH])


def _text_of(encoded: str) -> str:
    try:
        return _decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _decode(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
