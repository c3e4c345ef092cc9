"""What docs/several-panels.md promises, as arithmetic of its own; it knows nothing of the bridge.

Every byte is written down once, by where it was used: on a panel (`on two`) or reported under a
name (`alice`, `two/alice`). Who owns it is decided here by the page's words alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Quota = int | None
"""Bytes; None is unlimited."""
EDITED = "edited"
DEPARTED = "departed"
"""Where something was used by a user who is deleted, or for a panel without such a user."""


@dataclass(slots=True, kw_only=True)
class User:
    """A user as its panel has it, and what it owns while quotas are separate."""

    quota: Quota
    made: int
    """Which making of this user it is: a user made again has another number."""
    used: int = 0
    """What the panel counts in its own period."""
    share: Counter[str] = field(default_factory=Counter)
    """What counts for the user in its period, by where it was used."""


@dataclass(slots=True, kw_only=True)
class Person:
    """The users of one name while quotas span panels."""

    quota: Quota
    word: str
    """The panel whose data limit the quota is, or EDITED once an admin has set one since."""
    founders: set[tuple[str, int]]
    """The users, by panel and making, who were there when the name began."""
    share: Counter[str] = field(default_factory=Counter)
    since_newcomer: Counter[str] | None = None
    """What was used since the first user was made who is none of the founders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is right for one user."""

    quota: Quota
    used: int
    """All of the period, on this panel and elsewhere."""
    on_panel: int
    """What the panel itself counts."""

    @property
    def left(self) -> int | None:
        """What may still be used; None where that is without limit."""
        return None if self.quota is None else self.quota - self.used


class Model:
    """Three panels, their users, and what was reported; `panels` in the order of the file."""

    def __init__(self, panels: Sequence[str], *, spans: bool) -> None:
        self.panels = tuple(panels)
        self.spans = spans
        self.users: dict[tuple[str, str], User] = {}
        self.persons: dict[str, Person] = {}
        self.placed: dict[str, str | None] = {}
        """By name reported alone: the panel whose user it is."""
        self.reported: Counter[str] = Counter()
        """All that was ever acknowledged, by reported name."""
        self._made = 0

    def holders(self, name: str) -> list[str]:
        """Return the panels that have a user of the name, in order."""
        return [panel for panel in self.panels if (panel, name) in self.users]

    def standing(self, panel: str, name: str) -> Standing:
        """Return what is right for a user that its panel has."""
        user = self.users[panel, name]
        owner = self.persons[name] if self.spans else user
        return Standing(quota=owner.quota, used=owner.share.total(), on_panel=user.used)

    def create(self, panel: str, name: str, quota: Quota) -> None:
        """A panel makes a user; of a shared quota it is one more.

        Its limit is the quota where its panel is the one whose limit that was, or goes before it,
        unless an admin has set the quota since.
        """
        self._made += 1
        others = self.holders(name)
        self.users[panel, name] = User(quota=quota, made=self._made)
        if not self.spans:
            if not others and name in self.placed:
                self.placed[name] = panel
            return
        person = self.persons.get(name)
        if person is None:
            self.persons[name] = Person(quota=quota, word=panel, founders={(panel, self._made)})
        else:
            if person.since_newcomer is None:
                person.since_newcomer = Counter()
            if person.word != EDITED and self._is_first(panel, person.word):
                person.quota, person.word = quota, panel
            self._begin_if_all_are_new(name)

    def _is_first(self, panel: str, other: str) -> bool:
        return self.panels.index(panel) <= self.panels.index(other)

    def found_together(self, name: str) -> None:
        """Take all users of a name for those that it began with; the first panel's limit holds."""
        if not self.spans:
            return
        first = self.holders(name)[0]
        self.persons[name] = Person(
            quota=self.users[first, name].quota,
            word=first,
            founders={(panel, self.users[panel, name].made) for panel in self.holders(name)},
        )

    def delete(self, panel: str, name: str) -> None:
        """A panel deletes a user; its name alone is the next panel's then that has one."""
        del self.users[panel, name]
        if self.spans:
            for share in (self.persons[name].share, self.persons[name].since_newcomer or Counter()):
                for origin in (f"on {panel}", f"{panel}/{name}"):
                    share[DEPARTED] += share.pop(origin, 0)
            self._begin_if_all_are_new(name)
        elif self.placed.get(name) == panel:
            self.placed[name] = next(iter(self.holders(name)), None)

    def _begin_if_all_are_new(self, name: str) -> None:
        """Where no founder is left the name begins anew, with what newcomers have used."""
        person = self.persons[name]
        holders = self.holders(name)
        members = {(panel, self.users[panel, name].made) for panel in holders}
        if members & person.founders:
            return
        if not members:
            # Whoever is made next is no founder's fellow, and begins with nothing.
            self.persons.pop(name)
            return
        self.persons[name] = Person(
            quota=self.users[holders[0], name].quota,
            word=holders[0],
            founders=members,
            share=person.since_newcomer or Counter(),
        )

    def use(self, panel: str, name: str, count: int) -> None:
        """A user uses a panel's node."""
        user = self.users[panel, name]
        user.used += count
        self._count(name, f"on {panel}", count, panel)

    def report(self, reported: str, count: int) -> None:
        """A report was acknowledged."""
        self.reported[reported] += count
        panel, _, name = reported.rpartition("/")
        holders = self.holders(name)
        if self.spans:
            is_nobodys = bool(panel) and panel not in holders
            self._count(name, DEPARTED if is_nobodys else reported, count, panel)
            return
        if not panel:
            if self.placed.get(name) is None:
                self.placed[name] = holders[0] if holders else None
            panel = self.placed[name] or ""
        self._count(name, reported, count, panel)

    def _count(self, name: str, origin: str, count: int, panel: str) -> None:
        if not self.spans:
            if (panel, name) in self.users:
                self.users[panel, name].share[origin] += count
        elif name in self.persons:
            person = self.persons[name]
            person.share[origin] += count
            if person.since_newcomer is not None:
                person.since_newcomer[origin] += count

    def reset(self, panel: str, name: str) -> None:
        """A period begins; of a shared quota on all panels."""
        if not self.spans:
            self.users[panel, name].share.clear()
            self.users[panel, name].used = 0
            return
        person = self.persons[name]
        person.share.clear()
        if person.since_newcomer is not None:
            person.since_newcomer.clear()
        for each in self.holders(name):
            self.users[each, name].used = 0

    def carry(self, name: str, unseen: Mapping[str, int]) -> None:
        """Count in the new period what panels out of reach had counted after the last look."""
        for panel, count in unseen.items():
            self._count(name, f"on {panel}", count, panel)

    def edit(self, panel: str, name: str, quota: Quota) -> None:
        """An admin sets a data limit; of a shared quota it is everybody's of the name."""
        if self.spans:
            self.persons[name].quota, self.persons[name].word = quota, EDITED
            for each in self.holders(name):
                self.users[each, name].quota = quota
        else:
            self.users[panel, name].quota = quota

    def switch(self, *, spans: bool) -> None:
        """BRIDGE_QUOTAS_SPAN_PANELS is set otherwise: what is used stays used, once."""
        if spans == self.spans:
            return
        names = sorted({name for _, name in self.users})
        if spans:
            self.persons = {name: self._joined(name) for name in names}
        else:
            for name in names:
                self._part(name)
            self.persons = {}
        self.spans = spans

    def _joined(self, name: str) -> Person:
        holders = self.holders(name)
        share: Counter[str] = Counter()
        for panel in holders:  # what was a panel's user's share is so again when they part
            share[f"on {panel}"] += self.users[panel, name].share.total()
        return Person(
            quota=self.users[holders[0], name].quota,
            word=holders[0],
            founders={(panel, self.users[panel, name].made) for panel in holders},
            share=share,
        )

    def _part(self, name: str) -> None:
        """Give each user what was used on its panel or reported for it; the rest is the first's.

        The name alone is of the panel that it was of, else of the first that has the user.
        """
        person, holders = self.persons[name], self.holders(name)
        if name in self.reported and self.placed.get(name) not in holders:
            self.placed[name] = holders[0]
        for panel in holders:
            self.users[panel, name].share = Counter()
            self.users[panel, name].quota = person.quota
        for origin, count in person.share.items():
            if origin == name:
                panel = self.placed.get(name) or ""
            else:
                panel = origin.removeprefix("on ").partition("/")[0]
            if panel not in holders:
                panel = holders[0]
            self.users[panel, name].share[origin] += count

    def expected_total(self, name: str) -> int:
        """Return what all users of a name have used in their periods, each byte once."""
        if self.spans:
            return self.persons[name].share.total()
        return sum(self.users[panel, name].share.total() for panel in self.holders(name))

    def restored(self, panel: str, used: Mapping[str, int]) -> None:
        """A panel was put back to a backup and accepted: it counts what it shows then.

        What it had counted since the backup is forgiven.
        """
        for name, count in used.items():
            user = self.users[panel, name]
            owner = self.persons[name] if self.spans else user
            owner.share[f"on {panel}"] -= user.used - count
            user.used = count
