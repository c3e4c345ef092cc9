"""Other panels' own payloads in: `POST /v1/sources/3x-ui/{key}`, `POST /v1/sources/uniproxy/{key}`.

Their senders cannot set headers, so the reporter's key is the end of the path. It is read there and
nowhere written: not to the log, not into an answer, not into a metric.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request

from collector.api.context import Collector, CollectorPart
from collector.api.lean import LeanRoute
from collector.api.pipeline import Counting, Sorted, store, throttle
from collector.api.problems import ProblemError, documented, refused_request
from collector.api.reports import Answer, answer_for
from collector.api.senders import Claims, MessagePart, find_key_holder, read_body
from collector.ledger import Receipt
from collector.pushes import Push, message_id_of
from collector.reporters import Reporter
from collector.reports import accept
from collector.sources import Translated, three_x_ui, uniproxy
from collector.sources.uniproxy import NODE_PART, Node, node_of

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/sources", tags=["sources"], route_class=LeanRoute)

_STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 503, 507)

KeyInPath = Annotated[str, Path(description="A reporter key")]
_OBJECT = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
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
        ("node_type", "What it speaks; counted as the protocol"),
    )
]
_Translate = Callable[[Reporter, bytes], Awaitable[Translated]]


@router.post(
    "/3x-ui/{key:path}",
    responses=documented(*_STATUSES),
    openapi_extra={"requestBody": _OBJECT},
)
async def take_3x_ui(
    request: Request, collector: CollectorPart, claimed: MessagePart, *, key: KeyInPath
) -> Answer:
    """Count what 3x-ui's External Traffic Inform posts; inbounds and outbounds are left out."""

    async def translate(reporter: Reporter, body: bytes) -> Translated:
        book = collector.sources.book(now_seconds=collector.monotonic_seconds())
        panel = book.three_x_ui(reporter.name)
        return three_x_ui.translate(body, panel, message_id=claimed.header_id)

    return await _take(request, collector, claimed, key, translate)


@router.post(
    "/uniproxy/{key:path}",
    responses=documented(*_STATUSES),
    openapi_extra={"requestBody": _OBJECT, "parameters": _NODE},
)
async def take_uniproxy(
    request: Request,
    collector: CollectorPart,
    claimed: MessagePart,
    *,
    key: KeyInPath,
) -> Answer:
    """Count what a node of a V2board-style panel pushes to it, mirrored here.

    The same push of the same node within the source's retry window is a retry.
    """

    async def translate(reporter: Reporter, body: bytes) -> Translated:
        node = node_of(request.query_params)
        if not isinstance(node, Node):
            raise refused_request(node)
        book = collector.sources.book(now_seconds=collector.monotonic_seconds())
        panel = book.uniproxy(reporter.name)
        if panel is None:
            raise ProblemError(
                403,
                f"nobody knows whose ids these are: there is no [uniproxy.{reporter.name}] in "
                "COLLECTOR_SOURCES_FILE",
            )
        push = Push(reporter.name, node, panel, body)
        message_id = claimed.header_id or await message_id_of(collector, push)
        return uniproxy.translate(body, node, panel, message_id=message_id)

    return await _take(request, collector, claimed, key, translate)


async def _take(
    request: Request, collector: Collector, claimed: Claims, key: str, translate: _Translate
) -> Answer:
    settings = collector.settings
    with Counting(collector.metrics):
        holder = claimed._replace(key=key.rstrip("/"))
        reporter = await find_key_holder(collector, holder)
        if reporter is None:  # a key is always there; the types do not know
            raise ProblemError(401, "the path ends with a reporter key")
        throttle(collector.key_limit, reporter.name, collector)
        with collector.sources_room.place() as place:
            _, body = await read_body(
                request,
                claimed,
                settings.max_source_body_bytes,
                place=place,
                read_seconds=settings.read_seconds,
            )
            translated = await translate(reporter, body)
            sorted_, receipt = await _store(collector, reporter, translated)
    return answer_for(sorted_, receipt)


async def _store(
    collector: Collector, reporter: Reporter, translated: Translated
) -> tuple[Sorted, Receipt]:
    scope = f"reporter:{reporter.name}"
    sorted_ = Sorted(list(translated.refusals))
    sorted_.ignored = translated.ignored
    now_millis = collector.now_millis()
    for index, wire in translated.reports:
        outcome = accept(
            wire,
            index=index,
            username=wire.user_token,
            scope=scope,
            fallback_id=None,
            now_millis=now_millis,
            limits=collector.limits,
        )
        sorted_.add(outcome)
    if sorted_.refusals:
        _note_refusals(collector, reporter, sorted_)
    if not (sorted_.reports or sorted_.refusals):  # a quiet moment is no fault
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
