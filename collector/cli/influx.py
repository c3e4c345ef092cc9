"""`traffic-collector bootstrap` and `export`: prepare InfluxDB, show and repeat the export."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from collector.cli.objects import export_object
from collector.cli.output import console, second_text
from collector.errors import InfluxUnauthorizedError, InfluxUnavailableError, SettingsError
from collector.influx.access import InfluxAccess
from collector.influx.buckets import Buckets, plan_buckets
from collector.influx.kinds import TargetKind
from collector.ledger import DeadLetter
from collector.ledger.engines import backend_of
from collector.runtime.cli import print_json
from collector.schema import Policy
from collector.settings import Settings

SHOWN_DEAD_LETTERS = 10
MAX_LINE_LENGTH = 100
PATIENCE_SECONDS = 60.0
"""How long to wait for an InfluxDB that is started at the same time."""

SET_UP_BEFORE = (
    "InfluxDB keeps the token it was first set up with. If new secrets were made since, put the "
    "old INFLUXDB_ADMIN_TOKEN back (in Docker the file secrets/influxdb_admin_token), or start "
    "with an empty InfluxDB, which loses the time series but no total: docs/install.md"
)
_NOTHING_TO_PREPARE = {
    TargetKind.INFLUXDB3: (
        "make its databases and token with `influxdb3 create`, see docs/time-series.md"
    ),
    TargetKind.VICTORIAMETRICS: (
        "it has neither buckets nor tokens; start it with -dedup.minScrapeInterval=1ms and a "
        "-retentionPeriod of INFLUXDB_RAW_DAYS, see docs/time-series.md"
    ),
}


def bootstrap(
    settings: Settings, *, tokens: Path | None, patience_seconds: float = PATIENCE_SECONDS
) -> int:
    """Create or update the buckets, and with `tokens` each program's token; idempotent.

    Signs in with INFLUXDB_ADMIN_TOKEN, else with the collector's own token. Raises InfluxError or
    SettingsError.
    """
    access = _access(settings)
    if reason := _NOTHING_TO_PREPARE.get(access.kind):
        raise SettingsError(f"INFLUXDB_KIND is {access.kind}: {reason}")
    if not settings.influxdb_prepares_buckets:
        raise SettingsError(
            "INFLUXDB_PREPARES_BUCKETS is false: make the buckets and tokens with InfluxDB's own "
            "tools, see docs/time-series.md"
        )
    if settings.influxdb_admin_token:
        access = replace(access, token=settings.influxdb_admin_token, token_file=None)
    buckets = Buckets(access)
    changes = plan_buckets(
        settings.influx_retention_seconds, _current(buckets, patience_seconds=patience_seconds)
    )
    buckets.apply(changes)
    is_mapped_now = buckets.map_default()
    for change in changes:
        print(f"{change}: done")
    if is_mapped_now:
        print(f"queries that name no policy read {Policy.RAW.bucket}: done")
    if not changes and not is_mapped_now:
        print("the buckets exist, with the retention that is set")
    if tokens is not None:
        from collector.influx.tokens import issue_tokens  # noqa: PLC0415 - 14 MB that `serve` saves

        try:
            made = issue_tokens(access, tokens)
        except OSError as error:
            raise SettingsError(f"--tokens: {error.filename}: {error.strerror}") from error
        print(f"tokens made: {', '.join(made)}" if made else "the tokens work")
    return 0


def _current(buckets: Buckets, *, patience_seconds: float) -> dict[str, int]:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return buckets.current_seconds()
        except InfluxUnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            print(f"{error}; trying again")
            time.sleep(2)
        except InfluxUnauthorizedError as error:
            raise SettingsError(f"{error}: {SET_UP_BEFORE}") from error


def _access(settings: Settings) -> InfluxAccess:
    if not settings.influxdb_url:
        raise SettingsError("INFLUXDB_URL is not set: there is no InfluxDB to prepare or export to")
    return settings.influx_access()


def export_status(settings: Settings, *, as_json: bool = False) -> int:
    """Show the position of each stream; return exit code 1 while an error stops a stream."""
    reader = backend_of(settings.ledger_url).reader()
    policies = settings.influxdb_kind.policies
    states = {policy: reader.export_state(policy) for policy in policies}
    backlogs = {policy: reader.backlog(policy) for policy in policies}
    letters = reader.dead_letters(limit=SHOWN_DEAD_LETTERS)
    reader.close()
    is_stopped = any(state.problem for state in states.values())
    if as_json:
        print_json([export_object(each, state, backlogs[each]) for each, state in states.items()])
        return int(is_stopped)
    table = Table(title=f"Export to {settings.influxdb_url or 'nowhere'}", title_justify="left")
    for column in ("bucket", "up to report", "behind", "points", "last step (UTC)"):
        table.add_column(column, justify="left" if "UTC" in column else "right")
    for policy, state in states.items():
        table.add_row(
            policy.bucket,
            f"{state.seq:,}",
            f"{backlogs[policy].reports:,} reports",
            f"{state.points:,}",
            second_text(state.advanced_at_millis),
        )
    console.print(table)
    for policy, state in states.items():
        if state.problem:
            print(f"{policy.bucket} is stopped: {state.problem}")
    if not settings.influxdb_url:
        console.print("INFLUXDB_URL is not set: nothing is exported.")
    if letters:
        _show_dead_letters(letters)
    return int(is_stopped)


def _show_dead_letters(letters: Sequence[DeadLetter]) -> None:
    table = Table(title="Points InfluxDB refused for good, newest first", title_justify="left")
    for column in ("at (UTC)", "stream", "why", "line"):
        table.add_column(column)
    for each in letters:
        line = each.line
        if len(line) > MAX_LINE_LENGTH:
            line = line[:MAX_LINE_LENGTH] + "…"
        table.add_row(second_text(each.at_millis), each.stream, each.reason, line)
    console.print(table)


def export_rebuild(settings: Settings) -> int:
    """Reset the export's positions; the running or next collector exports everything again."""
    _access(settings)
    backend = backend_of(settings.ledger_url)
    reader = backend.reader()
    facts = reader.facts()
    reader.close()
    backend.rewind_exports()
    print(f"{facts.records:,} reports and {facts.day_rows:,} daily sums will be written again,")
    print(
        "by the collector, now if it runs. Points that InfluxDB has are overwritten with the same."
    )
    print("Reports that the ledger no longer keeps are only in the daily sums.")
    print("To see how far it is: traffic-collector export status")
    return 0
