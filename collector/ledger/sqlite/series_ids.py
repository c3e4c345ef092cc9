"""Remembers the ids of series in little memory.

A dictionary entry for each series, with its four parts as key, takes 370 bytes. Here a user's
series share an entry: their servers, numbered, each with the id of the series. 300,000 series of
100,000 users take 17 MB. Beside these, the ids of some that were asked for last are found faster.
"""

from __future__ import annotations

from collections.abc import Sequence

SeriesKey = tuple[str, str, int, str]
"""Username, server, port and protocol."""
MAX_USERS = 300_000
MAX_SERIES = 2_000_000
"""Beyond either bound all is forgotten, and asked for again."""
MAX_RECENT = 20_000
_NONE: dict[str, int] = {}
_PLACE_BYTES = 2
_ID_BYTES = 4
_ENTRY_BYTES = _PLACE_BYTES + _ID_BYTES
_MAX_PLACES = 2 ** (8 * _PLACE_BYTES)
_MAX_ID = 2 ** (8 * _ID_BYTES) - 1


class SeriesIds:
    """The ids of the series that were asked for lately; for one thread."""

    def __init__(self, *, max_users: int = MAX_USERS, max_series: int = MAX_SERIES) -> None:
        self._max_users = max_users
        self._max_series = max_series
        self._of_user: dict[str, bytes] = {}
        """For each series of a user: the number of its place, then its id."""
        self._places: dict[tuple[str, int, str], bytes] = {}
        """The numbers of servers with port and protocol."""
        self._series = 0
        self._recent: dict[tuple[str, int, str], dict[str, int]] = {}
        """Those that were asked for last: by server, port and protocol, and by user."""
        self._recents = 0

    def __len__(self) -> int:
        """Return how many series are remembered."""
        return self._series

    def get(self, key: SeriesKey) -> int | None:
        """Return the id of a series; None if it is not remembered."""
        username, server = key[0], key[1:]
        recent = self._recent.get(server)
        if recent is not None and (found := recent.get(username)) is not None:
            return found
        try:
            entries, place = self._of_user[username], self._places[server]
        except KeyError:
            return None
        at = entries.find(place)
        while at % _ENTRY_BYTES:  # not the beginning of an entry; -1 is none either
            if at < 0:
                return None
            at = entries.find(place, at + 1)
        found = int.from_bytes(entries[at + _PLACE_BYTES : at + _ENTRY_BYTES])
        if self._recents >= MAX_RECENT:
            self._recent.clear()
            self._recents = 0
        self._recent.setdefault(server, {})[username] = found
        self._recents += 1
        return found

    def recent(
        self,
        usernames: Sequence[str],
        servers: Sequence[str],
        ports: Sequence[int],
        protocols: Sequence[str],
    ) -> list[int | None]:
        """Return the ids of many series; None for those that are to be asked for by `get`.

        A request has many users and few servers, mostly with one port and protocol each.
        """
        found = {
            place: self._recent.get(place, _NONE).get
            for place in set(zip(servers, ports, protocols, strict=True))
        }
        if len(found) == 1:
            (find,) = found.values()
            return list(map(find, usernames))
        by_server = {server: find for (server, _, _), find in found.items()}
        if len(by_server) == len(found):
            pairs = zip(map(by_server.__getitem__, servers), usernames, strict=True)
        else:
            places = zip(servers, ports, protocols, strict=True)
            pairs = zip(map(found.__getitem__, places), usernames, strict=True)
        return [find(username) for find, username in pairs]

    def remember(self, key: SeriesKey, series_id: int) -> None:
        """Remember the id of a series that is not remembered yet."""
        if series_id > _MAX_ID:
            return
        is_full = len(self._of_user) >= self._max_users or self._series >= self._max_series
        if is_full or len(self._places) >= _MAX_PLACES:
            self.clear()
        username, place = key[0], self._places.get(key[1:])
        if place is None:
            place = self._places[key[1:]] = len(self._places).to_bytes(_PLACE_BYTES)
        entry = place + series_id.to_bytes(_ID_BYTES)
        self._of_user[username] = self._of_user.get(username, b"") + entry
        self._series += 1

    def clear(self) -> None:
        """Forget all."""
        self._recent.clear()
        self._recents = 0
        self._of_user.clear()
        self._places.clear()
        self._series = 0
