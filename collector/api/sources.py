"""Routes that accept payloads of other panels: `POST /v1/sources/{3x-ui,uniproxy}/{key}`.

These senders cannot set headers, so the reporter's key is the last part of the path. It is never
written to the log, an answer or a metric. A sender that can set headers, such as a relay, leaves
the key out of the path.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Path, Request

from collector.api.dependencies import CollectorPart
from collector.api.fast_routes import FastRoute
from collector.api.pipeline import Counting, Sorted, store, throttle
from collector.api.problems import ProblemError, documented, refused_request
from collector.api.reports import Answer, answer_for
from collector.api.senders import (
    Claims,
    ClaimsPart,
    MessagePart,
    find_key_holder,
    read_body,
    unpack,
)
from collector.intake.push_ids import Push
from collector.ledger import Receipt
from collector.parts import Collector
from collector.reports.contacts import Reason
from collector.reports.report import Refusal, accept
from collector.reports.reporters import Reporter
from collector.sources import Translated, three_x_ui, uniproxy
from collector.sources.uniproxy import NODE_PART, Node, node_of

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/sources", tags=["sources"], route_class=FastRoute)

_STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 503, 507)
_KEY_IN_PATH_STATUSES = (*_STATUSES, 404)

KeyInPath = Annotated[str, Path(description="A reporter key")]
_INFORM = {
    "clientTraffics": [{"email": "alice", "up": 1200, "down": 88000}],
    "inboundTraffics": [],
}
_PUSH = {"17": [1200, 88000]}


def _body(example: object) -> dict[str, object]:
    content = {"schema": {"type": "object"}, "example": example}
    return {"required": True, "content": {"application/json": content}}


_NODE = [
    {
        "name": name,
        "in": "query",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": f"^{NODE_PART.pattern}$"},
    }
    for name, description in (
        ("node_id", "The node's id in its panel"),
        ("node_type", "Its protocol, under which the traffic is counted"),
    )
]


class _Post(NamedTuple):
    """A request of another program, whose key is valid."""

    request: Request
    collector: Collector
    reporter: Reporter
    body: bytes
    message_id: str | None


_Translate = Callable[[_Post], Awaitable[Translated]]


@router.post(
    "/3x-ui", responses=documented(*_STATUSES), openapi_extra={"requestBody": _body(_INFORM)}
)
async def take_3x_ui(request: Request, collector: CollectorPart, claimed: ClaimsPart) -> Answer:
    """Store the clients' traffic of a relayed External Traffic Inform of 3x-ui; skip the rest."""
    return await _take(request, collector, claimed, _three_x_ui)


@router.post(
    "/3x-ui/{key:path}",
    responses=documented(*_KEY_IN_PATH_STATUSES),
    openapi_extra={"requestBody": _body(_INFORM)},
)
async def take_3x_ui_by_path(
    request: Request, collector: CollectorPart, claimed: MessagePart, *, key: KeyInPath
) -> Answer:
    """Store the clients' traffic of an External Traffic Inform of 3x-ui; skip the rest."""
    return await _take(request, collector, _with_key(claimed, key), _three_x_ui)


@router.post(
    "/uniproxy",
    responses=documented(*_STATUSES),
    openapi_extra={"requestBody": _body(_PUSH), "parameters": _NODE},
)
async def take_uniproxy(request: Request, collector: CollectorPart, claimed: ClaimsPart) -> Answer:
    """Store the traffic that a node of a V2board-style panel pushes, mirrored to this route.

    An identical push of the same node within the source's retry window is taken for a retry.
    """
    return await _take(request, collector, claimed, _uniproxy)


@router.post(
    "/uniproxy/{key:path}",
    responses=documented(*_KEY_IN_PATH_STATUSES),
    openapi_extra={"requestBody": _body(_PUSH), "parameters": _NODE},
)
async def take_uniproxy_by_path(
    request: Request, collector: CollectorPart, claimed: MessagePart, *, key: KeyInPath
) -> Answer:
    """Store the same, from a sender that cannot set headers."""
    return await _take(request, collector, _with_key(claimed, key), _uniproxy)


def _with_key(claimed: Claims, key: str) -> Claims:
    return claimed._replace(key=key.rstrip("/"))


async def _three_x_ui(post: _Post) -> Translated:
    config = post.collector.sources.config(now_seconds=post.collector.monotonic_seconds())
    panel = config.three_x_ui(post.reporter.name)
    return three_x_ui.translate(post.body, panel, message_id=post.message_id)


async def _uniproxy(post: _Post) -> Translated:
    node = node_of(post.request.query_params)
    if not isinstance(node, Node):
        raise refused_request(node)
    collector, name = post.collector, post.reporter.name
    panel = collector.sources.config(now_seconds=collector.monotonic_seconds()).uniproxy(name)
    if panel is None:
        raise ProblemError(
            403,
            f"the users of these ids are not known: add [uniproxy.{name}] to "
            "COLLECTOR_SOURCES_FILE",
            refused_for=Reason.NO_SOURCE,
        )
    push = Push(name, node, panel, post.body)
    message_id = post.message_id or await collector.push_ids.id_of(push)
    return uniproxy.translate(post.body, node, panel, message_id=message_id)


async def _take(
    request: Request, collector: Collector, claimed: Claims, translate: _Translate
) -> Answer:
    settings = collector.settings
    with Counting(collector, request):
        reporter = await find_key_holder(collector, claimed)
        if reporter is None:
            raise ProblemError(
                401,
                "put a reporter key at the end of the path, or send it as Authorization: Bearer",
                refused_for=Reason.NO_KEY,
            )
        throttle(collector.key_limit, reporter.name, collector)
        with collector.sources_memory.reserve() as reservation:
            limit_bytes = settings.max_source_body_bytes
            sent = await read_body(
                request,
                claimed,
                limit_bytes,
                reservation=reservation,
                read_seconds=settings.read_seconds,
            )
            body = unpack(sent, claimed, limit_bytes, reservation=reservation)
            post = _Post(request, collector, reporter, body, claimed.header_id)
            sorted_, receipt = await _store(collector, reporter, await translate(post))
    return answer_for(sorted_, receipt)


async def _store(
    collector: Collector, reporter: Reporter, translated: Translated
) -> tuple[Sorted, Receipt]:
    scope = f"reporter:{reporter.name}"
    sorted_ = Sorted(list(translated.refusals))
    sorted_.ignored = translated.ignored
    now_millis = collector.now_millis()
    tariff = await collector.rules.tariff_of(reporter)
    for index, wire in translated.reports:
        outcome = accept(
            wire,
            index=index,
            username=wire.user_token,
            scope=scope,
            fallback_id=None,
            now_millis=now_millis,
            limits=collector.limits,
            tariff=tariff,
        )
        sorted_.add([outcome] if isinstance(outcome, Refusal) else outcome, index)
    if sorted_.refusals:
        _note_refusals(collector, reporter, sorted_)
    if not (sorted_.reports or sorted_.refusals):  # a payload without traffic is valid
        collector.metrics.ignored.inc(sorted_.ignored)
        collector.metrics.note_heard(scope, at_seconds=now_millis / 1000)
        return sorted_, Receipt(0, 0)
    return sorted_, await store(collector, sorted_, scope)


def _note_refusals(collector: Collector, reporter: Reporter, sorted_: Sorted) -> None:
    now_seconds = collector.monotonic_seconds()
    if collector.sources.notes.take(reporter.name, now_seconds=now_seconds):
        return
    first = sorted_.refusals[0]
    log.warning(
        "source_refused reporter=%r count=%d: traffic is not counted, for example because %s %s",
        reporter.name,
        len(sorted_.refusals),
        first.field,
        first.reason,
    )
