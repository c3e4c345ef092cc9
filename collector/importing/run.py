"""Imports a file into a ledger, or computes what an import would count.

An embedded ledger must not be in use by a collector meanwhile; a shared one may be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from collector.errors import LedgerError, LedgerInUseError
from collector.importing.differences import difference, total
from collector.importing.files import Rows
from collector.importing.rows import Row, amount_of, read_row
from collector.importing.staging import Staging, Statement
from collector.importing.tally import ImportTally
from collector.ledger import Batch
from collector.ledger.backend import LedgerBackend
from collector.ledger.import_amounts import Grown, Sums
from collector.ledger.ports import LedgerReader
from collector.ledger.sql.imports import Counted, noting, scope_of
from collector.reports.billing import Billing, Tariff
from collector.reports.report import Limits, Refusal, Report

STATEMENTS_PER_COMMIT = 5000

Tell = Callable[[str, int, int | None], None]
"""Called with the present step, how much of it is done, and of how much."""


_SHRUNK = Refusal(
    0, "sum", "is less than what was imported of it before: was the table emptied in between?"
)


def read_rows(
    rows: Rows,
    staging: Staging,
    *,
    origin: str,
    since_day: int | None,
    now_millis: int,
    limits: Limits,
    tell: Tell,
) -> ImportTally:
    """Add up a file's rows, without those before a day; return the tally of what was read."""
    tally = ImportTally()
    for raw in rows:
        tally.rows += 1
        if tally.rows % 1000 == 0:
            tell("reading", rows.done, rows.expected)
        fields = rows.layout.read(raw)
        amount_bytes = amount_of(fields)
        tally.bytes_read += amount_bytes
        read = read_row(fields, origin=origin, now_millis=now_millis, limits=limits)
        if read is None:
            tally.rows_of_nothing += 1
        elif isinstance(read, Refusal):
            tally.refuse(read, rows=1, amount_bytes=amount_bytes, row=tally.rows)
        elif since_day is not None and read.day < since_day:
            tally.rows_too_old += 1
            tally.bytes_too_old += amount_bytes
        else:
            _stage(read, staging, tally)
    tell("reading", rows.done, rows.done)
    return tally


def _stage(row: Row, staging: Staging, tally: ImportTally) -> None:
    tally.note_day(row.day)
    staging.add(row)


def compare(
    staging: Staging,
    backend: LedgerBackend,
    tally: ImportTally,
    *,
    counts_toward_quota: bool,
    tell: Tell,
) -> None:
    """Compute what an import would count, also beside running collectors; change nothing."""
    with _reader_of(backend) as reader:
        tariff = _tariff(reader, counts_toward_quota=counts_toward_quota)
        for statements in _pages(staging):
            _reports(_growth(statements, _counted(statements, reader), tally), tariff, tally)
            tell("comparing", tally.statements, None)


def count_all(
    staging: Staging,
    backend: LedgerBackend,
    tally: ImportTally,
    *,
    origin: str,
    counts_toward_quota: bool,
    now_millis: int,
    tell: Tell,
) -> Grown:
    """Count what was not imported yet; return by how much the ledger grew.

    With `counts_toward_quota` it is billed by the present ratios, else it is billed to no quota.

    An interrupted import is completed by the next one. Raises LedgerInUseError while a collector
    uses an embedded ledger; LedgerError when a user's total would exceed the largest integer, or
    another import counts the same rows.
    """
    try:
        ledger = backend.open()
    except LedgerInUseError as error:
        raise LedgerInUseError(
            f"{error}. Stop the collector for the import, or use --dry-run meanwhile"
        ) from error
    expected = staging.count()
    with contextlib.closing(ledger), _reader_of(backend) as reader:
        if reader is None:
            raise LedgerError(
                f"the ledger {backend.name} has no place for imports: is it being restored?"
            )
        tariff = _tariff(reader, counts_toward_quota=counts_toward_quota)
        after_seq = reader.last_seq()
        stored_before = reader.imported_since(origin, after_seq=after_seq)
        for statements in _pages(staging):
            before = _counted(statements, reader)
            growth = _growth(statements, before, tally)
            reports = _reports(growth, tariff, tally)
            if reports:
                sums = {statement.identity: sums for statement, sums, _ in growth}
                ledger.record(
                    [Batch(scope_of(origin), reports)],
                    received_at_millis=now_millis,
                    alongside=noting(sums, before),
                )
            tell("counting", tally.statements, expected)
        stored = reader.imported_since(origin, after_seq=after_seq)
        return Grown(
            stored.raw_bytes - stored_before.raw_bytes,
            stored.billed_bytes - stored_before.billed_bytes,
        )


def _tariff(reader: LedgerReader | None, *, counts_toward_quota: bool) -> Tariff | None:
    """Return how an import is billed by the ratios in a ledger, if there are any."""
    billing = Billing() if reader is None else Billing(reader.ratios())
    return billing.tariff(counts_toward_quota=counts_toward_quota)


@contextlib.contextmanager
def _reader_of(backend: LedgerBackend) -> Iterator[LedgerReader | None]:
    """Open the ledger for reading; None if there is none, or it is too old to know of imports."""
    if not backend.remembers_imports():
        yield None
        return
    with contextlib.closing(backend.reader()) as reader:
        yield reader


def _counted(statements: Sequence[Statement], reader: LedgerReader | None) -> Counted:
    if reader is None:
        return {}
    return reader.imported([each.identity for each in statements])


def _pages(staging: Iterable[Statement]) -> Iterator[list[Statement]]:
    statements = iter(staging)
    while page := list(islice(statements, STATEMENTS_PER_COMMIT)):
        yield page


_Growth = list[tuple[Statement, Sums, bool]]
"""Statements, what of each was not imported yet, and whether any of it was."""


def _growth(statements: Sequence[Statement], before: Counted, tally: ImportTally) -> _Growth:
    """Compare statements with what was imported of them; note the outcome of each in the tally."""
    growth: _Growth = []
    for statement in statements:
        tally.statements += 1
        stated, counted = statement.sums, before.get(statement.identity, {})
        grown = difference(stated, counted)
        if grown is None:
            tally.refuse(_SHRUNK, rows=1, amount_bytes=total(stated).total_bytes)
            continue
        grown_bytes = total(grown).total_bytes
        tally.bytes_there += total(stated).total_bytes - grown_bytes
        if grown:
            tally.bytes_counted += grown_bytes
            tally.statements_counted += 1
            tally.users[next(iter(statement.reports.values())).username] += grown_bytes
            growth.append((statement, grown, bool(counted)))
    return growth


def _reports(growth: _Growth, tariff: Tariff | None, tally: ImportTally) -> list[Report]:
    """Return the reports to store, and note in the tally what they are billed."""
    reports: list[Report] = []
    for statement, sums, is_known in growth:
        for protocol, amounts in sums.items():
            report = statement.reports[protocol]
            raw = amounts.total_bytes
            billed = None if tariff is None else tariff.billed_bytes(report.server, raw)
            tally.bytes_billed += raw if billed is None else billed
            reports.append(
                msgspec.structs.replace(
                    report,
                    upload_bytes=amounts.upload_bytes,
                    download_bytes=amounts.download_bytes,
                    connections=0 if is_known else report.connections,
                    billed_bytes=billed,
                )
            )
    return reports
