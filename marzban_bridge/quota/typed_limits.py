"""The meaning of a limit that a person or a tool sets in the panel: decision 0020; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class TypedLimit(StrEnum):
    """What a data limit means that the bridge did not publish."""

    QUOTA = "quota"
    """The quota: all traffic of the period, the panel's and external."""
    LEFT = "left"
    """The remaining bytes on the panel: external usage of the period is added to get the quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedLimits:
    """The meaning of typed limits on one panel, by the admin of the user."""

    otherwise: TypedLimit = TypedLimit.QUOTA
    of_admins: tuple[tuple[str, TypedLimit], ...] = ()

    @classmethod
    def parse(cls, raw: str) -> Self:
        """Read `quota`, `left`, or either with exceptions: `quota, shop=left`; ValueError."""
        otherwise, of_admins = TypedLimit.QUOTA, dict[str, TypedLimit]()
        for place, part in enumerate(raw.split(",")):
            admin, is_exception, meaning = (each.strip() for each in part.rpartition("="))
            if is_exception and admin:
                of_admins[admin] = _meaning(meaning)
            elif place == 0 and not is_exception:
                otherwise = _meaning(meaning)
            else:
                raise ValueError("expected quota or left, then admin=quota or admin=left: " + HINT)
        return cls(otherwise=otherwise, of_admins=tuple(of_admins.items()))

    def of(self, admin: str | None) -> TypedLimit:
        """Return what a limit means for a user of this admin; None for users without an admin."""
        return next((each for name, each in self.of_admins if name == admin), self.otherwise)

    def __str__(self) -> str:
        exceptions = [f"{admin}={meaning}" for admin, meaning in self.of_admins]
        return ", ".join([self.otherwise.value, *exceptions])


HINT = "quota, shop=left"


def _meaning(raw: str) -> TypedLimit:
    try:
        return TypedLimit(raw)
    except ValueError:
        raise ValueError(f"expected quota or left, with exceptions as in: {HINT}") from None


def quota_of_typed_limit(
    typed_bytes: int | None, *, external_bytes: int, meaning: TypedLimit
) -> int | None:
    """Return the quota for a typed limit; None is unlimited in both.

    `external_bytes` are the billed external bytes of the user's period.
    """
    if typed_bytes is None or meaning is TypedLimit.QUOTA:
        return typed_bytes
    return typed_bytes + external_bytes
