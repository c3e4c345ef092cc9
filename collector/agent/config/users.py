"""Whose traffic is it: names a source uses → usernames; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UserMap:
    """Takes the part of a name that a pattern finds, then looks it up in a table.

    Without a pattern the name is taken whole; without a table it is the username, less the blanks
    around it.
    """

    pattern: re.Pattern[str] | None = None
    table: Mapping[str, str] | None = field(default=None, repr=False)

    def username(self, name: str) -> str | None:
        """Return the username of a name; None for a name that is no user's."""
        if self.pattern is not None:
            found = self.pattern.fullmatch(name)
            if found is None:
                return None
            name = found["user"] or ""
        if self.table is not None:
            return self.table.get(name)
        return name.strip() or None


def compile_pattern(text: str) -> re.Pattern[str]:
    """Return a pattern with a group `user`; ValueError says what is wrong with it."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    if "user" not in pattern.groupindex:
        raise ValueError("must have a group (?P<user>...), which is the username")
    return pattern
