"""What the bridge asks of a panel, whichever kind it is: the port that each adapter implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.identity import PanelUsers
from marzban_bridge.panels.users import (
    Listed,
    PanelAdmin,
    PanelEvent,
    PanelUser,
    SignInAnswer,
    UserUpdate,
)


class Panel(Protocol):
    """A panel, as far as the bridge uses it.

    Every call raises PanelUnavailableError when it may succeed later, PanelLoginError when the
    bridge's credentials are refused, and PanelRefusedError when the panel says no. A `bearer` is
    the token of another admin, for whom is asked; without one the bridge's own admin asks.
    """

    @property
    def dialect(self) -> Dialect:
        """How this kind of panel behaves; Marzban's until it was asked."""
        ...

    async def close(self) -> None:
        """Close the connections to the panel."""
        ...

    async def check(self) -> PanelCheck:
        """Say who the bridge is in the panel; cheap. Raises when it is none, or another program."""
        ...

    async def demand_there(self) -> None:
        """Raise PanelUnavailableError when the panel fails at what concerns none of its users."""
        ...

    # --- users -----------------------------------------------------------------------------------

    async def get_user(self, username: str) -> PanelUser:
        """Return the user of exactly this name.

        Raises UserNotFoundError when there is none, and OddUserError for one that cannot be read.
        """
        ...

    async def get_user_as(self, username: str, *, bearer: str) -> PanelUser:
        """Return the user of this name if the bearer may see it: the panel decides.

        Raises what `get_user` does, and PanelRefusedError with the panel's status.
        """
        ...

    async def get_users(self, usernames: Sequence[str]) -> Listed:
        """Return those of the named users that the panel lists, each read by itself."""
        ...

    async def usernames(self, *, offset: int, limit: int, admin: str | None = None) -> list[str]:
        """Return a page of the names of all users, in their order; an odd one is empty.

        With `admin`, of those that this admin owns.

        Raises PanelFailingError where the panel fails at one of the users on the page.
        """
        ...

    async def names_like(self, username: str) -> list[str]:
        """Return the names of all users that are equal to a name without case."""
        ...

    async def newest_users(self, *, limit: int) -> PanelUsers:
        """Return what tells the users that were created last from those of another panel."""
        ...

    async def heaviest_users(self, *, limit: int) -> PanelUsers:
        """Return the same of the users with the most traffic in their current period."""
        ...

    async def update_user(
        self, update: UserUpdate, *, on_lost_try: Callable[[], None] = ...
    ) -> PanelUser:
        """Write the update and return the user as the panel answers it.

        `on_lost_try` is called before the update is sent again because a first try got no answer:
        the panel may carry that one out later.
        """
        ...

    async def reset_user(self, username: str) -> None:
        """Set the user's used traffic to zero, with all side effects the panel gives that."""
        ...

    async def fire_next_plan(self, username: str) -> None:
        """Replace the user's plan by its next plan now; the user has to be read afterwards."""
        ...

    async def reset_all(self, *, bearer: str | None = None) -> None:
        """Set the used traffic of all users of the caller to zero, in one call of the panel's."""
        ...

    # --- admins ----------------------------------------------------------------------------------

    async def whoami(self, *, bearer: str | None = None) -> PanelAdmin:
        """Return the admin of a token; PanelRefusedError with status 401 if it is not valid."""
        ...

    async def admins(self, *, bearer: str | None = None) -> list[PanelAdmin]:
        """Return the admins that the panel keeps in its database, as far as they can be read."""
        ...

    async def reset_admin_usage(self, username: str, *, bearer: str | None = None) -> None:
        """Set the panel's own traffic counter of an admin to zero."""
        ...

    async def sign_in_as(self, form: bytes, *, content_type: str) -> SignInAnswer:
        """Pass a person's sign-in form on to the panel and return what it answers.

        Raises PanelUnavailableError alone: a refusal is an answer.
        """
        ...

    # --- webhooks --------------------------------------------------------------------------------

    def event_of(self, data: Mapping[str, Any]) -> PanelEvent | None:
        """Read one event of a webhook; None for one that asks for no evaluation.

        `data` has the texts `username` and `action`; the rest may be anything.
        """
        ...
