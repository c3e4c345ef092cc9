"""`marzban-bridge contact-points`: writes what Grafana reads alerting from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from marzban_bridge.errors import BridgeError
from marzban_bridge.notices.files import write_alerting, write_smtp
from marzban_bridge.notices.settings import read_notice_settings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        "--rules",
        type=Path,
        default=Path("provisioning/alerting"),
        metavar="DIR",
        help="where the rules and the texts are (default: provisioning/alerting)",
    )
    command.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="Grafana's folder of them: /etc/grafana/provisioning/alerting",
    )
    command.add_argument(
        "--smtp",
        type=Path,
        metavar="DIR",
        help="also write a file for each of Grafana's SMTP settings there",
    )


def write(environment: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Write the files and say where alerts go; a bad setting is said, and stops nothing."""
    settings, problems = read_notice_settings(environment)
    for each in problems:
        print(each, file=sys.stderr)
    try:
        write_alerting(settings, rules=arguments.rules, folder=arguments.to)
        if arguments.smtp:
            write_smtp(settings, arguments.smtp)
    except OSError as error:
        raise BridgeError(f"{error.filename}: {error.strerror}") from error
    places = ", ".join(settings.kinds)
    print(
        f"alerts are sent by {places}" if places else "alerts are sent nowhere; Grafana shows them"
    )
    return 0
