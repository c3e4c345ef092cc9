"""How one kind of panel spells its interface: what the adapter (`rest_panel`) needs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelAdmin, PanelEvent, PanelUser


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelApi:
    """One kind's fields, paths and answers. Readers raise what `fields.expecting` does."""

    dialect: Dialect
    credentials_field: str
    """Of a user: what it signs in with at the panel's nodes. No other kind's users have it."""
    read_user: Callable[[Mapping[str, Any]], PanelUser]
    read_admin: Callable[[Any], PanelAdmin]
    read_admins: Callable[[Any], Sequence[Any]]
    """Returns the single admins of a list."""
    read_event: Callable[[Mapping[str, Any]], PanelEvent | None]
    """Reads an event of a webhook; None for one that asks for no evaluation."""
    proof_path: str
    """What the panel answers from its database, about no user."""
    names_path: str
    """Where names are listed, in pages."""
    fire_path: str
    """What is behind a user's path to fire its next plan."""
    firing_answers_404: bool
    """Whether a plan that fires is answered 404."""
    admin_reset_path: Callable[[str], str]
    """Where the panel's counter of an admin is set to zero, given its quoted name."""
    is_admin: Callable[[Mapping[str, Any]], bool]
    """Tells whether an answer to `GET /api/admin` is this kind's."""
