"""Who may report: keys, what is stored of them, and signatures made with them.

A key is shown once; the ledger keeps its SHA-256. That hash is also the secret of Standard
Webhooks signatures (https://www.standardwebhooks.com), which a verifier must hold in full: whoever
can read the ledger could sign reports, but cannot learn the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MIN_KEY_LENGTH = 20
SIGNATURE_TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Somebody who may report for any user; the name outlives a change of key."""

    name: str
    key_hash: bytes = field(repr=False)
    created_at_millis: int
    revoked_at_millis: int | None = None
    counts_toward_quota: bool = True
    """Whether what it reports is billed; otherwise it is stored and shown, and limits nobody."""


def new_key() -> str:
    """Make a key of 256 random bits."""
    return "rk_" + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """Return what is stored of a key; a fast hash is enough for 256 random bits."""
    return hashlib.sha256(key.encode()).digest()


def signing_secret(key_hash: bytes) -> str:
    """Return the Standard Webhooks secret that belongs to a key."""
    return "whsec_" + base64.b64encode(key_hash).decode()


def is_signature_valid(
    headers: Mapping[str, str], body: bytes, *, key_hash: bytes, now_seconds: float
) -> bool:
    """Verify `webhook-id`, `webhook-timestamp` and `webhook-signature` over a body.

    Several signatures, separated by spaces, serve key rotation; one that fits is enough.
    """
    if not is_timely(headers, now_seconds=now_seconds):
        return False
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.digest(key_hash, signed, "sha256")
    return any(
        hmac.compare_digest(expected, given)
        for given in _signatures(headers.get("webhook-signature", ""))
    )


def is_timely(headers: Mapping[str, str], *, now_seconds: float) -> bool:
    """Tell whether a signed request names its message, and a moment that is near enough."""
    timestamp = headers.get("webhook-timestamp", "")
    if not headers.get("webhook-id") or not re.fullmatch(r"[0-9]{1,12}", timestamp):
        return False
    return abs(now_seconds - int(timestamp)) <= SIGNATURE_TOLERANCE_SECONDS


def _signatures(header: str) -> Iterable[bytes]:
    for part in header.split(" ")[:16]:
        version, _, encoded = part.partition(",")
        if version != "v1":
            continue
        try:
            yield base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue


class KeyRing:
    """The reporters that are valid now, by key and by name."""

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        valid = [each for each in reporters if each.revoked_at_millis is None]
        self._by_hash = {each.key_hash: each for each in valid}
        self._by_name = {each.name: each for each in valid}

    def by_key(self, key: str) -> Reporter | None:
        """Return whose key it is; the look-up is by hash, so its time tells nothing of the key."""
        return self._by_hash.get(hash_key(key))

    def by_name(self, name: str) -> Reporter | None:
        """Return the reporter of a name."""
        return self._by_name.get(name)

    def __len__(self) -> int:
        return len(self._by_name)
