"""Lists of a panel's users: many by their names, pages of names, the first in some order.

A user at whom the panel fails, or one that cannot be read, keeps no other user from being read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import httpx

from marzban_bridge.errors import (
    OddUserError,
    PanelFailingError,
    PanelRefusedError,
    UserNotFoundError,
)
from marzban_bridge.panels.api import PanelApi
from marzban_bridge.panels.fields import expecting, json_of, name_in, whole
from marzban_bridge.panels.http.pages import Prove, once, past_failures
from marzban_bridge.panels.http.queries import queries
from marzban_bridge.panels.identity import PanelUsers, UserMark
from marzban_bridge.panels.names import account_key, folded
from marzban_bridge.panels.users import Listed, PanelUser

log = logging.getLogger(__name__)

NAMES_PER_PAGE = 200
REFUSALS_OF_A_LIST = frozenset({400, 404, 413, 414, 422, 431})
"""Of the panel, or of what is before it: about what is in the list, or how long that makes it."""


class Ask(Protocol):
    """Sends a request to the panel and returns its answer; raises the panel's errors."""

    async def __call__(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask."""


class UserLists:
    """Reads lists of one panel's users.

    `read` reads one user of the panel; `get` asks for one by its name.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        read: Callable[[Any], PanelUser],
        get: Callable[[str], Awaitable[PanelUser]],
        prove: Prove,
    ) -> None:
        self._ask, self._read, self._get, self._prove = ask, read, get, prove

    async def users(self, usernames: Sequence[str]) -> Listed:
        """Return those of the named users that the panel lists, each read by itself.

        A user that cannot be read is set aside. A user without `created_at` makes Marzban answer
        500 for any page that contains it, and what is before the panel may refuse a list: that is
        halved, down to the one user who is set aside. Whether it is the panel that fails is asked
        first, and no list is taken apart for an outage.
        """
        listed, prove = Listed(), once(self._prove)
        for names in queries(usernames):
            await self._list(names, listed, prove)
        return listed

    async def _list(self, names: Sequence[str], listed: Listed, prove: Prove) -> None:
        if listed.is_refused:
            await self._get_one_by_one(names, listed)
            return
        try:
            response = await self._ask("GET", "/api/users", params={"username": list(names)})
        except PanelFailingError:
            await prove()
            if len(names) == 1:
                listed.aside[names[0]] = "the panel fails at it (500)"
                return
        except PanelRefusedError as error:
            if error.status not in REFUSALS_OF_A_LIST:
                raise
            if len(names) == 1:
                # Where this one can be asked for by itself, lists are refused whatever is in them.
                listed.is_refused = await self._get_one_by_one(names, listed)
                return
        else:
            with expecting("list of users"):
                items = list(json_of(response)["users"])
            for item in items:
                self._read_into(listed, item)
            return
        half = len(names) // 2
        await self._list(names[:half], listed, prove)
        await self._list(names[half:], listed, prove)

    def _read_into(self, listed: Listed, item: Any) -> None:
        """Read a user of a list; one that cannot be read is set aside, if it says who it is."""
        try:
            listed.users.append(self._read(item))
        except OddUserError as error:
            if name := name_in(item):
                listed.aside[name] = str(error)
            else:
                log.warning("one of the panel's users is left out, and has no name: %s", error)

    async def _get_one_by_one(self, usernames: Sequence[str], listed: Listed) -> bool:
        """Ask for each user by itself; return whether the panel took all of these questions."""
        is_taken = True
        for username in usernames:
            try:
                listed.users.append(await self._get(username))
            except UserNotFoundError:
                continue
            except PanelFailingError:
                listed.aside[username] = "the panel fails at it (500)"
            except OddUserError as error:
                listed.aside[username] = str(error)
            except PanelRefusedError as error:
                if error.status not in REFUSALS_OF_A_LIST:
                    raise
                is_taken = False
                listed.aside[username] = f"the panel refuses to be asked for it ({error.status})"
        return is_taken

    async def first(self, sort: str, limit: int, api: PanelApi) -> PanelUsers:
        """Return the first users of a list; fewer where the panel fails at one of so many."""
        while True:
            params: dict[str, str | int] = {"limit": limit, "sort": sort}
            try:
                response = await self._ask("GET", "/api/users", params=params)
            except PanelFailingError:
                if limit == 1:
                    raise
                limit //= 2
                continue
            return self._marks(json_of(response), api)

    def _marks(self, data: Any, api: PanelApi) -> PanelUsers:
        """Read what tells one panel's users from another's; who cannot be read is left out."""
        with expecting("list of users"):
            total = whole(data["total"])
            marks, lifetime_bytes = dict[str, UserMark](), dict[str, int]()
            for item in list(data["users"]):
                with suppress(OddUserError):
                    user = self._read(item)
                    key = account_key(user.username)
                    made = json.dumps(item.get(api.credentials_field), sort_keys=True)
                    digest = hashlib.sha256(made.encode()).hexdigest()
                    marks[key] = UserMark(created_at=user.created_at, credentials=digest)
                    lifetime_bytes[key] = user.lifetime_bytes
            return PanelUsers(total=total, marks=marks, lifetime_bytes=lifetime_bytes)

    async def names(
        self,
        path: str,
        *,
        offset: int,
        limit: int,
        search: str | None = None,
        admin: str | None = None,
    ) -> list[str]:
        """Return a page of names in their order, perhaps of an admin's; an odd one is empty."""
        params: dict[str, str | int] = {"offset": offset, "limit": limit, "sort": "username"}
        if search is not None:
            params["search"] = search
        if admin is not None:
            params["admin"] = admin
        response = await self._ask("GET", path, params=params)
        with expecting("list of users"):
            items = list(json_of(response)["users"])
        return [name_in(item) or "" for item in items]

    async def names_like(self, path: str, username: str) -> list[str]:
        """Return the names of all users that are equal to a name without case.

        The panel's search finds names and notes that contain the text, `%` and `_` standing for
        anything. A page with a user that makes the panel fail is read in parts, without that user.
        """

        async def ask(offset: int, limit: int) -> list[str]:
            return await self.names(path, offset=offset, limit=limit, search=username)

        found: list[str] = []
        prove = once(self._prove)
        while True:
            page = await past_failures(ask, prove, offset=len(found), limit=NAMES_PER_PAGE)
            found += page
            if len(page) < NAMES_PER_PAGE:
                return [name for name in found if name and folded(name) == folded(username)]
