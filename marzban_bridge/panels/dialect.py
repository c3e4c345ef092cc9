"""What a panel calls its users: the rule each kind of panel holds new users' names to; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One kind of panel, as far as its users' names go."""

    panel: str
    names: re.Pattern[str]
    rule: str
    """The same in words."""

    def can_name_user(self, name: str) -> bool:
        """Tell whether a user of such a panel can be called so."""
        return self.names.fullmatch(name) is not None


MARZBAN = Dialect(
    panel="Marzban",
    names=re.compile(r"(?=\w{3,32}\b)[A-Za-z0-9_@.-]{3,255}", re.ASCII),
    rule="3 to 32 letters, digits and underscores to begin with, then also . @ and -",
)
PASARGUARD = Dialect(
    panel="PasarGuard",
    names=re.compile(r"[A-Za-z0-9_@.-]{3,128}", re.ASCII),
    rule="3 to 128 letters, digits, underscores, . @ and -",
)
