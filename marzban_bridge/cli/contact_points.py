"""`marzban-bridge contact-points`: writes Grafana's files of alert rules and contact points."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from marzban_bridge.errors import BridgeError
from marzban_bridge.notifications.files import write_alerting, write_smtp
from marzban_bridge.notifications.settings import read_notification_settings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    for option, help_text in (
        ("--rules", "rules and message templates (default: provisioning/alerting)"),
        ("--to", "Grafana's folder for them: /etc/grafana/provisioning/alerting"),
        ("--smtp", "folder for a file of each of Grafana's SMTP settings"),
    ):
        command.add_argument(
            option,
            type=Path,
            metavar="DIR",
            required=option == "--to",
            default=Path("provisioning/alerting") if option == "--rules" else None,
            help=help_text,
        )


def write(environment: Mapping[str, str], *, rules: Path, folder: Path, smtp: Path | None) -> int:
    """Write Grafana's files of alert rules and contact points, and print the contact points.

    A wrong setting is printed, and its contact point left out. Raises BridgeError for a file that
    cannot be read or written.
    """
    settings, problems = read_notification_settings(environment)
    for each in problems:
        print(each, file=sys.stderr)
    try:
        write_alerting(settings, rules=rules, folder=folder)
        if smtp:
            write_smtp(settings, smtp)
    except OSError as error:
        raise BridgeError(f"{error.filename}: {error.strerror}") from error
    places = ", ".join(settings.kinds)
    print(
        f"alerts are sent by {places}"
        if places
        else "no contact point is set: alerts are shown in Grafana only"
    )
    return 0
