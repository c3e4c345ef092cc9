"""A crowd of made-up users that behave like a small provider's: some idle, some over their quota.

Pure, and the same for the same size: the simulated panel and the synthetic traffic agree on it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GIB = 2**30
DAY_SECONDS = 86_400
SEED = 20_241_124
OWNERS = ("shop-berlin", "shop-tehran", "family")
QUOTAS_GIB = (10, 20, 30, 50, 100, 200)
NAMES = (
    *("ada", "amir", "anna", "bahar", "ben", "carla", "dara", "elena", "farid", "felix", "gita"),
    *("hana", "igor", "jana", "kian", "lena", "mina", "nils", "omid", "petra", "reza", "sara"),
)
SERVERS: tuple[tuple[str, int, str], ...] = (
    ("fi-1.example.net", 443, "vless"),
    ("nl-2.example.net", 443, "vless"),
    ("us-3.example.net", 8443, "trojan"),
    ("tr-4.example.net", 2053, "vmess"),
    ("wg-5.example.net", 51820, "wireguard"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One user of the crowd."""

    username: str
    owner: str
    quota_bytes: int | None
    reset_strategy: str
    external_bytes_per_day: int
    panel_bytes_per_day: int
    servers: tuple[tuple[str, int, str], ...]
    busiest_hour: float


def crowd(size: int) -> list[Member]:
    """Return so many users; a tenth has no quota, a fifth uses more in a day than it may."""
    dice = random.Random(SEED)  # noqa: S311 - made-up people
    return [_member(number, dice) for number in range(size)]


def _member(number: int, dice: random.Random) -> Member:
    quota_bytes = None if dice.random() < 0.1 else dice.choice(QUOTAS_GIB) * GIB
    appetite = dice.choice((0.02, 0.1, 0.2, 0.35, 0.5, 0.6, 0.75, 0.85, 1.1, 1.3))
    per_day = (quota_bytes or 40 * GIB) * appetite
    external_share = dice.choice((0.0, 0.3, 0.5, 0.6, 0.8, 1.0))
    return Member(
        username=f"{NAMES[number % len(NAMES)]}_{number:02}",
        owner=dice.choice(OWNERS),
        quota_bytes=quota_bytes,
        reset_strategy=dice.choice(("no_reset", "no_reset", "month", "week")),
        external_bytes_per_day=int(per_day * external_share),
        panel_bytes_per_day=int(per_day * (1 - external_share)),
        servers=tuple(dice.sample(SERVERS, dice.randint(1, 3))),
        busiest_hour=dice.gauss(20, 3) % 24,
    )


def describe_panel(members: list[Member], *, password: str) -> dict[str, Any]:
    """Return the crowd as a simulated panel takes users to begin with."""
    return {
        "admins": [{"username": owner, "password": password} for owner in OWNERS],
        "users": [
            {
                "username": each.username,
                "owner": each.owner,
                "data_limit": each.quota_bytes or 0,
                "data_limit_reset_strategy": each.reset_strategy,
            }
            for each in members
        ],
    }


def activity(member: Member, at: datetime) -> float:
    """Return how much busier than on average a user is at an hour: 0.2 at worst, 1.8 at best."""
    hour = at.hour + at.minute / 60
    return 1 + 0.8 * math.cos((hour - member.busiest_hour) / 24 * 2 * math.pi)


def usage(
    members: list[Member], *, at: datetime, seconds: float, dice: random.Random
) -> Iterator[tuple[Member, tuple[str, int, str], int]]:
    """Yield who used which external server for how many bytes in a stretch of time."""
    for member in members:
        expected = member.external_bytes_per_day * seconds / DAY_SECONDS * activity(member, at)
        count_bytes = int(expected * dice.uniform(0.5, 1.5))
        if count_bytes:
            yield member, dice.choice(member.servers), count_bytes
