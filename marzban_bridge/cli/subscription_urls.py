"""Where the collector of `marzban-bridge up` asks for subscriptions of further panels; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.runtime.config import ConfigError, did_you_mean
from marzban_bridge.config.panels_file import PanelSettings

SETTING = "COLLECTOR_SUBSCRIPTION_URLS"
USUAL_PATH = "sub"


def subscription_urls(panels: Sequence[PanelSettings], named: Mapping[str, str]) -> str:
    """Return that setting for all panels but the first: as it is named there, else under `/sub`.

    Raises ConfigError for a name that is no panel's: what is reported of it would match no user.
    """
    further = {panel.name: f"{panel.url}/{USUAL_PATH}" for panel in panels[1:]}
    for name in named:
        if name not in further:
            raise ConfigError(
                f"{SETTING}: {name} is no panel of BRIDGE_PANELS_FILE{did_you_mean(name, further)}"
            )
    return ",".join(f"{name}={url}" for name, url in (further | dict(named)).items())
