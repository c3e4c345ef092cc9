"""The kinds of panel there are, and how an answer tells which one it is of."""

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
"""Of the newest panels of each kind."""
EVERY_API = (*APIS.values(), PASARGUARD_4_API)
MAX_SHOWN_FIELDS = 8


def api_of(me: Any) -> PanelApi:
    """Tell a panel's kind, and how it spells it, from its answer to who the bridge is there.

    Raises NotThePanelError, which says what was seen, where it is neither kind.
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


def other_kind_of(item: Any, api: PanelApi) -> Dialect | None:
    """Return the kind of panel a user object is of, if it is another than the one known."""
    if isinstance(item, Mapping) and api.credentials_field not in item:
        for other in APIS.values():
            if other.dialect.kind is not api.dialect.kind and other.credentials_field in item:
                return other.dialect
    return None
