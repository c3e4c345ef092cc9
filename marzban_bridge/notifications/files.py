"""Writes the folder that Grafana reads alerting from, and its SMTP settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marzban_bridge.notifications.contact_points import contact_file, smtp_values, with_address
from marzban_bridge.notifications.settings import NotificationSettings

CONTACTS = "contact-points.yaml"
_MODE = 0o644
"""Grafana is another user; the folders are in volumes that only it can reach."""


def write_alerting(settings: NotificationSettings, *, rules: Path, folder: Path) -> None:
    """Copy the files of `rules` into `folder`, and write the contact points there.

    Raises OSError where a file cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(rules.glob("*.yaml")):
        text = source.read_text(encoding="utf-8")
        _write(folder / source.name, with_address(text, settings.grafana_url))
    target = folder / CONTACTS
    content = contact_file(settings, before=_content_of(target))
    if content is None:
        target.unlink(missing_ok=True)
    else:
        _write(target, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_smtp(settings: NotificationSettings, folder: Path) -> None:
    """Write a file for each of Grafana's SMTP settings, for its `GF_SMTP_…__FILE`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in smtp_values(settings).items():
        _write(folder / name, value)


def _content_of(path: Path) -> Mapping[str, Any] | None:
    """Return what is in a file of this module's own; None for none, or another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, text: str) -> None:
    """Write a file at once, with its mode from the start."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w") as file:
        file.write(text)
    draft.chmod(_MODE)
    draft.replace(path)
