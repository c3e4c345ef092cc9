"""Requests a correction, and waits for the ledger's writer or this process to carry it out."""

from __future__ import annotations

import time
from contextlib import closing

from collector.errors import LedgerError, LedgerInUseError, LedgerUnavailableError
from collector.ledger.backend import EmbeddedBackend, SharedBackend
from collector.ledger.corrections import Correction, Wanted
from collector.ledger.ports import Ledger, LedgerReader

NEWEST = 100
"""How many corrections are searched for the one that was asked for."""
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.2
TRY_HERE_SECONDS = 2.0
"""Interval at which the waiting command tries to become the ledger's writer."""


def carry_out(
    backend: EmbeddedBackend | SharedBackend, wanted: Wanted, *, now_millis: int
) -> Correction:
    """Record a correction as requested, and return it when it is carried out.

    The collector that writes the ledger carries it out; if none runs, this process does. Raises
    LedgerError for one that is not carried out after PATIENCE_SECONDS, or that is refused.
    """
    number = backend.ask_correction(wanted, asked_at_millis=now_millis)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try_here_at = time.monotonic()
    with closing(backend.reader()) as reader:
        while not (done := _find(reader, number)).done_at_millis:
            if time.monotonic() > deadline:
                raise LedgerError(
                    f"correction {number} is requested and not carried out yet: the collector that "
                    "writes the ledger carries it out; see `traffic-collector corrections`"
                )
            if time.monotonic() >= try_here_at:
                try_here_at = time.monotonic() + TRY_HERE_SECONDS
                _try_here(backend, now_millis=now_millis)
            time.sleep(POLL_SECONDS)
    if done.problem is not None:
        raise LedgerError(f"{done.problem}; nothing was changed")
    return done


def _try_here(backend: EmbeddedBackend | SharedBackend, *, now_millis: int) -> None:
    """Carry out all requested corrections, if this process can be the ledger's writer.

    Otherwise the collector that writes the ledger carries them out, which may hold a lock for
    longer than others wait for it. Raises LedgerError and NotStoredError.
    """
    try:
        _carry_out_here(backend, now_millis=now_millis)
    except (LedgerInUseError, LedgerUnavailableError):
        pass
    except LedgerError as error:
        if not isinstance(error.__cause__, LedgerUnavailableError):
            raise


def _carry_out_here(backend: EmbeddedBackend | SharedBackend, *, now_millis: int) -> None:
    if not backend.is_shared:
        with closing(backend.open()) as ledger:
            _carry_out_all(ledger, now_millis=now_millis)
        return
    with closing(backend.open()) as shared:
        if shared.leads:
            _carry_out_all(shared, now_millis=now_millis)


def _carry_out_all(ledger: Ledger, *, now_millis: int) -> None:
    while ledger.correct(now_millis=now_millis):
        pass


def _find(reader: LedgerReader, number: int) -> Correction:
    for each in reader.corrections(limit=NEWEST):
        if each.number == number:
            return each
    raise LedgerError(f"correction {number} is not in the ledger any more: was it restored?")
