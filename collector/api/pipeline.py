"""Handles a request with reports: authenticate the sender, decode, find each user, store.

Reports are on disk when a function here returns their outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from collector.api.admission import admit, bound_servers, settle
from collector.api.problems import ProblemError, problem_of
from collector.api.senders import (
    Claims,
    address_of,
    find_key_holder,
    find_signer,
    read_body,
    unpack,
    verify_signature,
)
from collector.contacts import note_refused
from collector.errors import CollectorError, IdentityUnknownError
from collector.ledger import Batch, Receipt
from collector.parts import Collector
from collector.reports.contacts import Reason
from collector.reports.decode import (
    BodyTooLargeError,
    Decoded,
    UnreadableBodyError,
    decode,
    first_user_token,
)
from collector.reports.identity import is_plainly_a_name, is_url, subscription_token
from collector.reports.report import (
    Refusal,
    Report,
    WireReport,
    accept,
    faults_of,
    is_ahead,
    is_empty,
)
from collector.reports.reporters import Reporter
from collector.reports.unknown_fields import UnknownField
from collector.runtime.rate_limit import RateLimit

log = logging.getLogger(__name__)


class Sorted:
    """The reports of one request, sorted into what is stored and what is not."""

    def __init__(self, refusals: list[Refusal]) -> None:
        self.reports: list[Report] = []
        self.indexes: list[int] = []
        """The index in the request of each of `reports`."""
        self.refusals = refusals
        """One for each fault of a report."""
        self.ignored = 0
        self.unknown: Sequence[UnknownField] = ()
        """Names in the reports that are no fields of a report."""

    def add(self, outcome: Report | Sequence[Refusal] | None, index: int) -> None:
        """Add one decoded report, or all its faults; None is one of zero bytes."""
        if outcome is None:
            self.ignored += 1
        elif isinstance(outcome, Report):
            self.reports.append(outcome)
            self.indexes.append(index)
        else:
            self.refusals += outcome


async def take(
    request: Request, collector: Collector, claimed: Claims, *, is_array_allowed: bool = True
) -> tuple[Sorted, Receipt]:
    """Store the reports of a request; return the outcome of each once the valid ones are on disk.

    Raises ProblemError for every other outcome, which is counted by status and field.
    """
    settings = collector.settings
    with Counting(collector, request):
        reporter = await find_key_holder(collector, claimed)
        signer = await find_signer(collector, request, claimed) if reporter is None else None
        is_keyless = reporter is None and signer is None
        if is_keyless and collector.subscriptions is None:
            reason = f"{_HOW_TO_AUTHENTICATE}; {_NOT_VERIFIABLE}"
            raise ProblemError(401, reason, refused_for=Reason.NO_KEY)
        limit_bytes = settings.max_keyless_body_bytes if is_keyless else settings.max_body_bytes
        memory = collector.reporters_memory if reporter else collector.strangers_memory
        with memory.reserve() as reservation:
            body = await read_body(
                request,
                claimed,
                limit_bytes,
                reservation=reservation,
                read_seconds=settings.read_seconds,
            )
            if signer:
                verify_signature(collector, request, body, signer=signer)
                reporter = signer
            if reporter:
                throttle(collector.key_limit, reporter.name, collector)
            body = unpack(body, claimed, limit_bytes, reservation=reservation)
            sender = reporter or await _self_reporter(collector, request, body)
            decoded = decode(body, is_strict=claimed.is_strict)
            if decoded.is_array and not is_array_allowed:
                raise ProblemError(422, "this path accepts one report; post arrays to /v1/reports")
            sorted_, scope = await _sort(collector, decoded, sender, claimed.header_id)
            if decoded.unknown:
                _note_unknown(collector, sorted_, decoded.unknown, scope)
            receipt = await store(collector, sorted_, scope)
    return sorted_, receipt


class Counting:
    """Counts a request by its outcome; turns every error into a ProblemError.

    `request` may be None for one whose sender is authenticated.
    """

    def __init__(self, collector: Collector, request: Request | None) -> None:
        self._collector = collector
        self._request = request
        self._metrics = collector.metrics

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Count the outcome; raise a ProblemError for an error."""
        if error is None:
            self._metrics.count_answered()
        elif isinstance(error, CollectorError | UnreadableBodyError | BodyTooLargeError):
            problem = problem_of(error)
            self._metrics.requests.labels(status=str(problem.status)).inc()
            for each in problem.refusals or problem.problem.errors:
                self._metrics.refused.labels(field=_field_label(each.field)).inc()
            if problem.refused_for is not None:
                note_refused(
                    self._collector,
                    "" if self._request is None else address_of(self._request),
                    problem.refused_for,
                    whose=problem.once_of,
                )
            if problem is not error:
                raise problem from error


@dataclass(frozen=True, slots=True)
class SelfReporter:
    """A user without a key: its username, its verified token, and the client's address."""

    username: str
    address: str
    tokens: set[str]
    """Tokens in this request that were verified as this user's."""

    @property
    def scope(self) -> str:
        """The scope in which the ids of its reports are unique."""
        return f"user:{self.username}"


async def _self_reporter(collector: Collector, request: Request, body: bytes) -> SelfReporter:
    """Return the user of a request without a key, before the body is decoded; 401 if no token."""
    token = subscription_token(first_user_token(body) or "")
    if token is None:
        raise ProblemError(401, _HOW_TO_AUTHENTICATE, refused_for=Reason.NO_KEY)
    address = address_of(request)
    username = await _whose(collector, token, address)
    throttle(collector.user_limit, username, collector)
    return SelfReporter(username, address, {token})


async def _check_own(collector: Collector, sender: SelfReporter, wire: WireReport) -> None:
    """Raise ProblemError 401 unless a report names the user who sends it."""
    token = subscription_token(wire.user_token)
    if token is None:
        raise ProblemError(401, _HOW_TO_AUTHENTICATE, refused_for=Reason.NO_KEY)
    if token in sender.tokens:
        return
    is_own = len(sender.tokens) < MOST_OWN_TOKENS
    if not (is_own and await _whose(collector, token, sender.address) == sender.username):
        raise ProblemError(
            401,
            "without a reporter key, all reports of a request must be of one user",
            refused_for=Reason.OTHER_USER,
        )
    sender.tokens.add(token)


async def _whose(collector: Collector, token: str, address: str) -> str:
    if collector.subscriptions is None:
        raise ProblemError(401, _NOT_VERIFIABLE, refused_for=Reason.NO_KEY)
    return await collector.subscriptions.resolve(token, stranger=address)


async def _sort(
    collector: Collector,
    decoded: Decoded,
    sender: Reporter | SelfReporter,
    header_id: str | None,
) -> tuple[Sorted, str]:
    """Find the user of each report, and check each report."""
    sorted_ = Sorted(list(decoded.refusals))
    now_millis = collector.now_millis()
    reporter = sender if isinstance(sender, Reporter) else None
    limits = collector.limits if reporter else collector.user_limits
    scope = f"reporter:{sender.name}" if isinstance(sender, Reporter) else sender.scope
    tariff = await collector.rules.tariff_of(reporter)
    for index, wire in decoded.reports:
        if isinstance(sender, SelfReporter):
            await _check_own(collector, sender, wire)
            username = sender.username
        else:
            username = wire.user_token
            if not is_plainly_a_name(username):
                found = "" if is_empty(wire) else await _any_username(collector, wire, index)
                if isinstance(found, Refusal):
                    sorted_.add([found], index)
                    continue
                username = found
        fallback_id = id_from_header(header_id, index=index, is_array=decoded.is_array)
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
        if isinstance(outcome, Refusal):
            sorted_.add(
                faults_of(
                    wire, index=index, username=username, now_millis=now_millis, limits=limits
                ),
                index,
            )
            continue
        sorted_.add(outcome, index)
        if outcome is not None and is_ahead(wire, now_millis=now_millis):
            collector.metrics.ahead.inc()
    return sorted_, scope


def id_from_header(header_id: str | None, *, index: int, is_array: bool) -> str | None:
    """Return the id of a report without its own, from the id in the headers of its request."""
    return header_id if header_id is None or not is_array else f"{header_id}\x1f{index}"


def _note_unknown(
    collector: Collector, sorted_: Sorted, unknown: Sequence[UnknownField], scope: str
) -> None:
    """Count fields that are not known and, once an hour for each sender, log them."""
    sorted_.unknown = unknown
    for each in unknown:
        collector.metrics.unknown_fields.labels(meant=each.did_you_mean or "").inc(each.reports)
    if collector.unsure_senders.note(scope, now_seconds=collector.monotonic_seconds()):
        log.warning(
            "unknown_fields sender=%r fields=%s: what they hold is not counted; docs/report.md "
            "lists the fields of a report",
            scope,
            [each.field for each in unknown],
        )


MOST_OWN_TOKENS = 8
"""So many of one user's tokens a request without a key may carry: the panel is asked about each."""
_HOW_TO_AUTHENTICATE = (
    "send Authorization: Bearer with a reporter key (`traffic-collector reporters add NAME`), or a "
    "user's subscription token as user_token"
)
_NOT_VERIFIABLE = (
    "subscription tokens cannot be verified here: neither MARZBAN_URL nor "
    "COLLECTOR_SUBSCRIPTION_URLS is set"
)


async def _any_username(collector: Collector, wire: WireReport, index: int) -> str | Refusal:
    """Return the username of a reporter's report; an unknown token refuses that report alone."""
    token = subscription_token(wire.user_token)
    if token is None:
        if is_url(wire.user_token):
            return Refusal(index, "user_token", "is a URL without a subscription token in it")
        return wire.user_token
    if collector.subscriptions is None:
        return Refusal(index, "user_token", _NOT_VERIFIABLE)
    try:
        return await collector.subscriptions.resolve(token, stranger=None)
    except IdentityUnknownError:
        return Refusal(index, "user_token", "is a subscription token no panel knows")


def throttle(limit: RateLimit, caller: str, collector: Collector) -> None:
    """Take one call from a rate limit, or raise ProblemError 429 with `Retry-After`."""
    wait_seconds = limit.take(caller, now_seconds=collector.monotonic_seconds())
    if wait_seconds:
        raise ProblemError(
            429, "too many requests from this sender", retry_after_seconds=wait_seconds
        )


async def store(collector: Collector, sorted_: Sorted, scope: str) -> Receipt:
    """Store the valid reports and count the refused ones; ProblemError 422 if none is valid."""
    metrics = collector.metrics
    if not sorted_.reports and not sorted_.ignored:
        reason = "; ".join(f"{each.field} {each.reason}" for each in sorted_.refusals[:3])
        raise ProblemError(
            422, f"no report is valid: {reason or 'there is none'}", refusals=sorted_.refusals
        )
    if sorted_.ignored:
        metrics.ignored.inc(sorted_.ignored)
    metrics.note_heard(scope, at_seconds=collector.now_millis() / 1000)
    for refusal in sorted_.refusals:
        metrics.refused.labels(field=_field_label(refusal.field)).inc()
    if not sorted_.reports:
        return Receipt(0, 0)
    admitted_bytes = await admit(collector, scope, sorted_.reports)
    try:
        reports = await bound_servers(collector, scope, sorted_.reports)
        receipt = await collector.ingest.submit(Batch(scope, reports))
    finally:
        settle(collector, scope, admitted_bytes)
    note_stored(collector, sorted_, scope, receipt)
    return receipt


def note_stored(collector: Collector, sorted_: Sorted, scope: str, receipt: Receipt) -> None:
    """Count what became of reports that were to be stored; see `_refuse_full` for full totals."""
    metrics = collector.metrics
    if receipt.full:
        _refuse_full(collector, sorted_, receipt)
    metrics.accepted.inc(receipt.accepted)
    if receipt.duplicates:
        metrics.duplicates.inc(receipt.duplicates)
    if receipt.conflicts:
        metrics.conflicts.inc(receipt.conflicts)
        log.warning(
            "conflicting_duplicates count=%d reporter=%r: an id was sent again with other content; "
            "the first report counts",
            receipt.conflicts,
            scope,
        )


_FULL = "the total of this user is at its maximum: the ledger counts up to 2^62 bytes per user"


def _refuse_full(collector: Collector, sorted_: Sorted, receipt: Receipt) -> None:
    """Refuse the reports of users whose total is full; raise 507 if no other report was stored.

    If other reports were stored, the answer is 200 and names the refused ones. A sender would retry
    a request that failed as a whole, and so one user's full total would block all other users.
    """
    collector.metrics.beyond_capacity.inc(len(receipt.full))
    for name in dict.fromkeys(sorted_.reports[place].username for place in receipt.full):
        if collector.full_users.note(name, now_seconds=collector.monotonic_seconds()):
            log.error("user_total_full user=%r: its reports are refused with 507", name)
    if not receipt.accepted and not receipt.duplicates:
        raise ProblemError(507, f"nothing was stored: {_FULL}")
    sorted_.refusals += [
        Refusal(sorted_.indexes[place], "user_token", _FULL) for place in receipt.full
    ]


_FIELDS = frozenset(WireReport.__struct_fields__)


def _field_label(field: str) -> str:
    """Return the metric label: the field's name, without text that the sender chose."""
    return field if field in _FIELDS else "report"
