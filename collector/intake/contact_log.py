"""The contacts and refusals that a collector has noted, and has not stored yet."""

from __future__ import annotations

from collector.reports.contacts import OTHERS, Contacts, Reason, Refused, bounded

MOST_WAITING = 1000
STORED_AGAIN_MILLIS = 60_000
"""A contact of a reporter is stored again after so long."""


class ContactLog:
    """Notes contacts and refusals in bounded memory; `take` returns what is to be stored."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        self._refused: dict[tuple[str, Reason], tuple[int, int]] = {}

    def note_contact(self, reporter: str, *, at_millis: int) -> None:
        """Note that a reporter's key, or its signature, was accepted."""
        self._last[reporter] = at_millis

    def note_refusal(self, address: str, reason: Reason, *, at_millis: int) -> None:
        """Note that a request from an address was refused."""
        key = address, reason
        if key not in self._refused and len(self._refused) >= MOST_WAITING:
            key = OTHERS, reason
        requests, _ = self._refused.get(key, (0, 0))
        self._refused[key] = requests + 1, at_millis

    @property
    def last_contacts(self) -> dict[str, int]:
        """By reporter, its last contact with this process, in milliseconds since 1970."""
        return dict(self._last)

    def take(self, *, is_last: bool = False) -> Contacts | None:
        """Return what is to be stored now, None if nothing is; with `is_last` all there is.

        A caller that could not store it calls `give_back`.
        """
        least_millis = 0 if is_last else STORED_AGAIN_MILLIS
        news = {
            name: at_millis
            for name, at_millis in self._last.items()
            if name not in self._stored or at_millis - self._stored[name] > least_millis
        }
        if not news and not self._refused:
            return None
        refused = [Refused(*key, *value) for key, value in self._refused.items()]
        self._stored |= news
        self._refused = {}
        return Contacts(news, bounded(refused))

    def give_back(self, news: Contacts) -> None:
        """Have what `take` returned stored another time."""
        for name in news.last_contacts:
            self._stored.pop(name, None)
        for each in news.refused:
            key = each.address, Reason(each.reason)
            requests, last_at_millis = self._refused.get(key, (0, 0))
            self._refused[key] = (
                requests + each.requests,
                max(last_at_millis, each.last_at_millis),
            )
