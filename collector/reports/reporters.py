"""Reporters: their keys, what is stored of the keys, and signatures made with them.

A key is shown once; the ledger keeps its SHA-256. That hash is also the secret of Standard
Webhooks signatures (https://www.standardwebhooks.com), which a verifier must hold in full: a
reader of the ledger could sign reports, but cannot learn the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MIN_KEY_LENGTH = 20
SIGNATURE_TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerKey:
    """A replaced key, which stays valid in addition to the new one for a grace period."""

    name: str
    key_hash: bytes = field(repr=False)
    valid_until_millis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """A sender that may report for all users; its name stays when the key is replaced."""

    name: str
    key_hash: bytes = field(repr=False)
    created_at_millis: int
    revoked_at_millis: int | None = None
    counts_toward_quota: bool = True
    """Whether its reports are billed to quotas; otherwise they are only stored and shown."""
    former_keys: tuple[FormerKey, ...] = ()

    def key_hashes(self, *, now_millis: int) -> tuple[bytes, ...]:
        """Return the hashes of the keys that are valid now: its own, and those in grace."""
        former = (each for each in self.former_keys if now_millis < each.valid_until_millis)
        return (self.key_hash, *(each.key_hash for each in former))


def parse_former(text: str | None) -> list[FormerKey]:
    """Parse the text of `format_former`; None is an empty list."""
    return [
        FormerKey(name=name, key_hash=bytes.fromhex(key_hash), valid_until_millis=int(until))
        for name, key_hash, until in json.loads(text or "[]")
    ]


def format_former(former: Iterable[FormerKey]) -> str:
    """Return the text that is stored in the ledger."""
    return json.dumps(
        [(each.name, each.key_hash.hex(), each.valid_until_millis) for each in former]
    )


def former_after_rotation(
    kept: Iterable[FormerKey], name: str, key_hash: bytes, *, now_millis: int, grace_millis: int
) -> list[FormerKey]:
    """Return the former keys after a reporter's key was replaced.

    With a grace of 0 its earlier keys end, too. Keys whose grace is over are removed.
    """
    left = [
        each
        for each in kept
        if now_millis < each.valid_until_millis and (grace_millis > 0 or each.name != name)
    ]
    if grace_millis <= 0:
        return left
    until_millis = now_millis + grace_millis
    return [*left, FormerKey(name=name, key_hash=key_hash, valid_until_millis=until_millis)]


def former_without(kept: Iterable[FormerKey], name: str) -> list[FormerKey]:
    """Return the former keys of all others."""
    return [each for each in kept if each.name != name]


def with_former(reporters: Iterable[Reporter], former: Sequence[FormerKey]) -> list[Reporter]:
    """Return reporters with the former keys of their names."""
    return [
        replace(each, former_keys=found)
        if (found := tuple(key for key in former if key.name == each.name))
        else each
        for each in reporters
    ]


MAX_CONFIGURED = 1000


class Configured(NamedTuple):
    """A key of COLLECTOR_REPORTER_KEYS, as the ledger knows it: listed and revoked like others."""

    name: str
    key_hash: bytes
    created_at_millis: int
    """When a collector was first started with it."""
    revoked_at_millis: int | None
    counts_toward_quota: bool


def configured_by(
    keys: Iterable[tuple[str, str]], *, outside_quota: Container[str], now_millis: int
) -> list[Configured]:
    """Return the keys of COLLECTOR_REPORTER_KEYS and COLLECTOR_REPORTERS_OUTSIDE_QUOTA."""
    return [
        Configured(name, hash_key(key), now_millis, None, name not in outside_quota)
        for name, key in keys
    ]


def parse_configured(text: str | None) -> list[Configured]:
    """Parse the text of `format_configured`; None is an empty list."""
    return [
        Configured(name, bytes.fromhex(key_hash), int(created_at), revoked_at, bool(counts))
        for name, key_hash, created_at, revoked_at, counts in json.loads(text or "[]")
    ]


def format_configured(configured: Iterable[Configured]) -> str:
    """Return the text that is stored in the ledger."""
    return json.dumps([(each.name, each.key_hash.hex(), *each[2:]) for each in configured])


def merge_configured(kept: Iterable[Configured], now: Iterable[Configured]) -> list[Configured]:
    """Return the keys configured now, with their stored facts, and all revoked keys.

    A revoked key stays revoked if it is configured again; its name may get another key.
    """
    known = {each.key_hash: each for each in kept}
    merged = [
        each
        if (before := known.pop(each.key_hash, None)) is None
        else each._replace(
            created_at_millis=before.created_at_millis, revoked_at_millis=before.revoked_at_millis
        )
        for each in now
    ]
    revoked = [each for each in known.values() if each.revoked_at_millis is not None]
    return [*merged, *revoked[-MAX_CONFIGURED:]]


def revoke_configured(
    kept: Iterable[Configured], name: str, *, now_millis: int
) -> list[Configured]:
    """Return the keys, with those of a name revoked."""
    return [
        each._replace(revoked_at_millis=now_millis)
        if each.name == name and each.revoked_at_millis is None
        else each
        for each in kept
    ]


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return "rk_" + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """Return the stored hash of a key; a fast hash is enough for 256 random bits."""
    return hashlib.sha256(key.encode()).digest()


def signing_secret(key_hash: bytes) -> str:
    """Return the Standard Webhooks secret that belongs to a key."""
    return "whsec_" + base64.b64encode(key_hash).decode()


def is_signature_valid(
    headers: Mapping[str, str], body: bytes, *, key_hash: bytes, now_seconds: float
) -> bool:
    """Verify `webhook-id`, `webhook-timestamp` and `webhook-signature` over a body.

    The header may have several signatures, separated by spaces; one valid signature is enough.
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
    """Tell whether a signed request has an id, and a timestamp close enough to now."""
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
    """The valid reporters, by key and by name."""

    def __init__(self, reporters: Iterable[Reporter], *, now_millis: int) -> None:
        everybody = list(reporters)
        valid = [each for each in everybody if each.revoked_at_millis is None]
        self._by_hash = {
            key_hash: each for each in valid for key_hash in each.key_hashes(now_millis=now_millis)
        }
        self._by_name = {each.name: each for each in valid}
        self._once = {
            key_hash: each.name
            for each in everybody
            for key_hash in (each.key_hash, *(former.key_hash for former in each.former_keys))
        }

    def by_key(self, key: str) -> Reporter | None:
        """Return the reporter of a key; the look-up is by hash, so its timing reveals nothing."""
        return self.by_hash(hash_key(key))

    def by_hash(self, key_hash: bytes) -> Reporter | None:
        """Return the reporter of the key with a hash."""
        return self._by_hash.get(key_hash)

    def once_of(self, key: str) -> str | None:
        """Return the name of the reporter that has, or once had, a key; None if there is none."""
        return self._once.get(hash_key(key))

    def by_name(self, name: str) -> Reporter | None:
        """Return the reporter of a name."""
        return self._by_name.get(name)

    def __len__(self) -> int:
        return len(self._by_name)
