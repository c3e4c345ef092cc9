"""What a limit means that somebody types into the panel, or a tool writes: decision 0020; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class TypedLimit(StrEnum):
    """What a number means that became a user's data limit and is none of the bridge's."""

    QUOTA = "quota"
    """All the user may use in its period, here and elsewhere."""
    LEFT = "left"
    """What the panel is to show from now on: what was used elsewhere in the period comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedLimits:
    """What typed limits mean on one panel, for the users of each of its admins."""

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
        """Return what a limit means for a user of this admin; None owns users of no admin."""
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
    """Return the quota that a typed limit makes; None is unlimited in both.

    `external_bytes` is what counts as used elsewhere in the user's period.
    """
    if typed_bytes is None or meaning is TypedLimit.QUOTA:
        return typed_bytes
    return typed_bytes + external_bytes
