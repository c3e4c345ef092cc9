"""Takes plain requests with reports from the protocol, past ASGI; see `runtime.http.direct`.

Plain is a request with a valid key whose reports are all accepted as they are. It is stored,
counted and answered as by `pipeline.take`, with the same functions. Every other request is left to
the application, with nothing done. The answers to all requests of a commit are sent together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI

from collector.api.admission import admits_at_once, settle
from collector.api.fast_routes import HEADERS, mark_of
from collector.api.pipeline import Counting, Sorted, id_from_header, note_stored
from collector.api.problems import ProblemError, answer_of
from collector.api.senders import read_claims
from collector.errors import NotStoredError
from collector.ledger import Batch, Receipt
from collector.metrics import Metrics
from collector.parts import Collector
from collector.reports.billing import Tariff
from collector.reports.columns import FEWEST_BY_COLUMN, accept_plain
from collector.reports.decode import decode_plain
from collector.reports.identity import is_plainly_a_name
from collector.reports.report import Limits, Report, WireReport, accept, is_ahead
from collector.reports.reporters import hash_key
from collector.reports.sender_days import REPORTER
from collector.runtime.http import answer_mark
from collector.runtime.http.direct import Exchange, Head, Headers


class _Claims(NamedTuple):
    """What the head of a request claims, as far as a direct route needs it."""

    key_hash: bytes
    header_id: str | None
    mark: bytes


class _Taken(NamedTuple):
    """A request whose reports are queued."""

    collector: Collector
    scope: str
    reports: Sequence[Report]
    amount_bytes: int
    mark: bytes
    exchange: Exchange


class DirectIntake:
    """The direct route of a path; `answer` returns the JSON of an answer.

    A path that takes one report only is not `is_array_allowed`.
    """

    def __init__(
        self,
        app: FastAPI,
        answer: Callable[[Sorted, Receipt], bytes],
        *,
        is_array_allowed: bool = True,
    ) -> None:
        self._app = app
        self._answer = answer
        self._is_array_allowed = is_array_allowed
        self._answered = self._accepted = 0
        """Requests and their reports that are answered and not counted yet."""
        self._heard: dict[str, float] = {}
        """By scope, when reporters sent what is not counted yet."""
        self._is_counting_due = False

    def read_head(self, headers: Headers) -> Head | None:
        """Return the claims of a request with a key and a body as it is; see `DirectRoute`."""
        try:
            claimed = read_claims({"headers": headers, "query_string": b""})
        except ProblemError:
            return None
        if claimed.key is None or claimed.body_encoding not in {b"", b"identity"}:
            return None
        is_repeated = claimed.header_id is None and not any(
            name == _REQUEST_ID for name, _ in headers
        )
        claims = _Claims(hash_key(claimed.key), claimed.header_id, mark_of(headers).encode())
        return Head(claims, is_repeated)

    def take(self, claims: Any, body: bytes, exchange: Exchange) -> bool:
        """Queue the reports of a plain request; see `DirectRoute`."""
        collector: Collector | None = getattr(self._app.state, "collector", None)
        if collector is None or (rules := collector.rules.at_hand) is None:
            return False
        reporter = rules.ring.by_hash(claims.key_hash)
        if reporter is None or len(body) > min(
            collector.settings.max_body_bytes, collector.reporters_memory.free_bytes
        ):
            return False
        wires = decode_plain(body)
        if wires is None:
            return False
        is_array = not isinstance(wires, WireReport)
        if is_array and not self._is_array_allowed:
            return False
        scope = f"{REPORTER}{reporter.name}"
        now_millis = collector.now_millis()
        reports = _accepted(
            [wires] if isinstance(wires, WireReport) else wires,
            claims,
            is_array=is_array,
            scope=scope,
            now_millis=now_millis,
            limits=collector.limits,
            tariff=rules.billing.tariff(counts_toward_quota=reporter.counts_toward_quota),
        )
        if not reports:
            return False
        now_seconds = collector.monotonic_seconds()
        if collector.key_limit.take(reporter.name, now_seconds=now_seconds):
            return False
        amount_bytes = admits_at_once(collector, scope, reports)
        if amount_bytes is None:
            collector.key_limit.give_back(reporter.name, now_seconds=now_seconds)
            return False
        collector.contact_log.note_contact(reporter.name, at_millis=now_millis)
        self._count_later(collector)
        self._heard[scope] = now_millis / 1000
        taken = _Taken(collector, scope, reports, amount_bytes, claims.mark, exchange)
        stored = partial(self._answer_to, taken)
        try:
            collector.ingest.enqueue(Batch(scope, reports), stored)
        except NotStoredError as error:
            stored(error)
        return True

    def _answer_to(self, taken: _Taken, outcome: Receipt | Exception) -> None:
        """Count and answer a request, given what became of its reports."""
        collector, reports = taken.collector, taken.reports
        settle(collector, taken.scope, taken.amount_bytes)
        sorted_ = _NOTHING_REFUSED
        if isinstance(outcome, Receipt) and outcome.accepted == len(reports):
            self._count_later(collector)
            self._answered += 1
            self._accepted += outcome.accepted
        else:
            sorted_ = Sorted([])
            sorted_.reports, sorted_.indexes = list(reports), list(range(len(reports)))
            try:
                with Counting(collector, None):
                    if isinstance(outcome, Exception):
                        raise outcome
                    note_stored(collector, sorted_, taken.scope, outcome)
            except ProblemError as error:
                _send_problem(error, taken)
                return
        body = self._answer(sorted_, outcome)
        taken.exchange.answer(200, HEADERS % (len(body), taken.mark), body)

    def _count_later(self, collector: Collector) -> None:
        """Have what is noted counted once, after this turn of the event loop."""
        if not self._is_counting_due:
            self._is_counting_due = True
            asyncio.get_running_loop().call_soon(self._count, collector.metrics)

    def _count(self, metrics: Metrics) -> None:
        self._is_counting_due = False
        answered, accepted, heard = self._answered, self._accepted, self._heard
        self._answered = self._accepted = 0
        self._heard = {}
        metrics.count_answered(answered)
        metrics.accepted.inc(accepted)
        for scope, at_seconds in heard.items():
            metrics.note_heard(scope, at_seconds=at_seconds)


_REQUEST_ID = answer_mark.REQUEST_HEADER.encode()
_NOTHING_REFUSED = Sorted([])


def _accepted(
    wires: Sequence[WireReport],
    claims: _Claims,
    *,
    is_array: bool,
    scope: str,
    now_millis: int,
    limits: Limits,
    tariff: Tariff | None,
) -> Sequence[Report] | None:
    """Return the reports if each is accepted as it is, of a name that needs no look-up."""
    fallback_id = claims.header_id
    if len(wires) >= FEWEST_BY_COLUMN and fallback_id is None:
        columns = accept_plain(
            wires, scope=scope, now_millis=now_millis, limits=limits, tariff=tariff
        )
        if columns is not None:
            return columns
    reports = []
    for index, wire in enumerate(wires):
        username = wire.user_token
        if not is_plainly_a_name(username) or is_ahead(wire, now_millis=now_millis):
            return None
        if fallback_id is not None:
            fallback_id = id_from_header(claims.header_id, index=index, is_array=is_array)
        outcome = accept(
            wire,
            index=index,
            username=username,
            scope=scope,
            fallback_id=fallback_id,
            now_millis=now_millis,
            limits=limits,
            tariff=tariff,
        )
        if not isinstance(outcome, Report):
            return None
        reports.append(outcome)
    return reports


def _send_problem(error: ProblemError, taken: _Taken) -> None:
    answer = answer_of(error)
    answer.headers[answer_mark.HEADER] = taken.mark.decode()
    lines = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
    taken.exchange.answer(answer.status_code, lines, bytes(answer.body))
