"""The kinds of panel, and which of them an answer tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marzban_bridge.errors import NotThePanelError
from marzban_bridge.panels.api import PanelApi
from marzban_bridge.panels.dialect import Dialect, PanelKind
from marzban_bridge.panels.fields import IS_IT_ONE
from marzban_bridge.panels.marzban import MARZBAN_API
from marzban_bridge.panels.pasarguard import PASARGUARD_4_API, PASARGUARD_API

APIS: Mapping[PanelKind, PanelApi] = {
    PanelKind.MARZBAN: MARZBAN_API,
    PanelKind.PASARGUARD: PASARGUARD_API,
}
"""The interfaces of the newest panels of each kind."""
EVERY_API = (*APIS.values(), PASARGUARD_4_API)
MAX_SHOWN_FIELDS = 8


def api_of(me: Any) -> PanelApi:
    """Return the interface of a panel's kind, from its answer to `GET /api/admin`.

    Raises NotThePanelError, which says what was answered, where it is of neither kind.
    """
    if isinstance(me, Mapping):
        for api in EVERY_API:
            if api.is_admin(me):
                return api
        seen = f"an object of {', '.join(map(repr, list(me)[:MAX_SHOWN_FIELDS])) or 'no fields'}"
    else:
        seen = f"a {type(me).__name__}"
    raise NotThePanelError(
        "the panel answers GET /api/admin neither as Marzban 0.8.4 does (with `is_sudo`) nor as "
        "PasarGuard 5.2.1 (with `role`) or 3.1.0 (with `is_sudo` and `is_disabled`), but with "
        f"{seen}: {IS_IT_ONE}"
    )


def api_as_set(given: PanelApi, me: Any) -> PanelApi:
    """Return the interface of a panel whose kind is set, from the same answer.

    An answer that tells no kind is taken for one of `given`. Raises NotThePanelError where it tells
    another kind than the one that is set.
    """
    try:
        api = api_of(me)
    except NotThePanelError:
        return given
    kind, title = api.dialect.kind, api.dialect.title
    if kind is not given.dialect.kind:
        raise NotThePanelError(
            f"the panel's kind is set to {given.dialect.kind} (MARZBAN_KIND, or kind in the panels "
            f"file), and it answers as {title}: set {kind}, or leave it out"
        )
    return api


def other_kind_of(item: Any, api: PanelApi) -> Dialect | None:
    """Return the dialect of the kind that a user object is of, if that is not the known kind."""
    if isinstance(item, Mapping) and api.credentials_field not in item:
        for other in APIS.values():
            if other.dialect.kind is not api.dialect.kind and other.credentials_field in item:
                return other.dialect
    return None
