"""The simulated panel's tokens: a JWT for admins, a short signed one for subscriptions."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

from marzban_bridge.simulator.panel.dialect import Kind

SIGNATURE_LENGTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a genuine subscription token says: a user's name, or its number."""

    issued_at: datetime
    username: str | None = None
    user_id: int | None = None


def subscription_token(
    username: str, *, user_id: int, kind: Kind, now: datetime, secret: str
) -> str:
    """Return a token of the kind's shape; the time is rounded up to whole seconds.

    Marzban: base64url of "name,unixtime" and 10 characters. PasarGuard: base64url of
    "v3,number,unixtime", a dot and a whole signature. Two tokens of one second are the same.
    """
    issued = ceil(now.timestamp())
    if kind == "pasarguard":
        text = _encode(f"v3,{user_id},{issued}".encode())
        return f"{text}.{_signature(text, secret)}"
    text = _encode(f"{username},{issued}".encode())
    return text + _signature(text, secret)[:SIGNATURE_LENGTH]


def read_subscription_token(token: str, *, kind: Kind, secret: str) -> Subscription | None:
    """Return what the token says, or None if it was not made with the secret.

    PasarGuard also takes the tokens that the panel gave out while it was a Marzban.
    """
    if "." in token and kind == "pasarguard":
        text, _, signature = token.rpartition(".")
        expected = _signature(text, secret)
    else:
        text, signature = token[:-SIGNATURE_LENGTH], token[-SIGNATURE_LENGTH:]
        expected = _signature(text, secret)[:SIGNATURE_LENGTH]
    if not text or not hmac.compare_digest(signature.encode(), expected.encode()):
        return None
    match _decode(text).decode().split(","):
        case ["v3", user_id, issued]:
            return Subscription(user_id=int(user_id), issued_at=_moment(issued))
        case [username, issued]:
            return Subscription(username=username, issued_at=_moment(issued))
        case _:
            return None


def _moment(issued: str) -> datetime:
    return datetime.fromtimestamp(int(issued), UTC)


def admin_token(
    username: str, *, is_sudo: bool, now: datetime, life_minutes: float, secret: str
) -> str:
    """Return a JWT (HS256) with the claims of the panels; a life of 0 has no end."""
    claims: dict[str, object] = {
        "sub": username,
        "access": "sudo" if is_sudo else "admin",
        "iat": int(now.timestamp()),
    }
    if life_minutes > 0:
        claims["exp"] = int(now.timestamp() + life_minutes * 60)
    header = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    text = f"{header}.{_encode(json.dumps(claims).encode())}"
    return f"{text}.{_signature(text, secret)}"


def read_admin_token(token: str, *, now: datetime, secret: str) -> str | None:
    """Return whose token it is, or None if it is forged, malformed or has expired."""
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(text, secret).encode()):
        return None
    claims = json.loads(_decode(text.partition(".")[2]))
    if "exp" in claims and claims["exp"] <= now.timestamp():
        return None
    return str(claims["sub"])


def _signature(text: str, secret: str) -> str:
    return _encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
