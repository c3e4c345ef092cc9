"""Accepts posts of senders that never retry, stores them, then answers; forwards them later.

A post gets its id when it is stored, so that it can be forwarded any number of times and counts
once. A sender's secret is in its path, so paths are never logged or stored.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlencode

from collector.agent.relay.listening import Receive, Scope, Send, answer
from collector.agent.relay.routes import KEPT_QUERY, KINDS, Route, digest_of, find_route
from collector.agent.state.relay_posts import SCHEMA as ROUTES_SCHEMA
from collector.agent.state.relay_posts import RefusedPosts, note_post
from collector.client.answers import Verdict, judge_request
from collector.client.errors import SpoolError
from collector.client.outbox import Item
from collector.client.report import new_id
from collector.client.sending.delivery import Answer, Post
from collector.client.spool.spool import Spool
from collector.runtime.http.body import BodyError, read_body
from collector.runtime.wall_clock import wall_clock_millis

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 2**20
BODY_SECONDS = 30.0
"""How long a body may take, in addition to its length divided by `LEAST_BYTES_PER_SECOND`."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS relay_seen (
    route TEXT NOT NULL, digest BLOB NOT NULL, seen_at INTEGER NOT NULL,
    PRIMARY KEY (route, digest)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Forward:
    """Forwards one stored post as one request to `/v1/sources/<kind>`, with the same body."""

    route: Route
    most_items: int = 1

    def pack(self, items: Sequence[Item]) -> Post:
        """Return the request that forwards a post."""
        (item,) = items
        head, _, body = item.body.partition(b"\n")
        kept = json.loads(head)
        query = f"?{kept['query']}" if kept["query"] else ""
        headers = {
            "content-type": kept["content_type"],
            "content-encoding": "gzip",
            "webhook-id": item.item_id,
            "webhook-timestamp": str(item.queued_at_millis // 1000),
        }
        key = quote(self.route.key, safe="")
        return Post(f"/v1/sources/{self.route.kind}/{key}{query}", headers, body)

    def judge(self, answer: Answer, *, count: int, now: datetime) -> Verdict:  # noqa: ARG002 - there is one
        """Decide what an answer means."""
        return judge_request(answer.status, answer.headers, answer.body, now=now)


class RelayApp:
    """The relay's ASGI app; `kept` is called with the lane in which a post was stored."""

    def __init__(self, routes: Sequence[Route], spool: Spool) -> None:
        self._routes = routes
        self._spool = spool
        self.wakes: dict[str, asyncio.Event] = {}
        self.posts: Counter[tuple[str, str]] = Counter()
        """How many posts were stored, repeated or refused, by route."""
        self.wrong_secrets = RefusedPosts()
        self.problem: str | None = None
        """Why the last post was refused; None if it was accepted."""
        with spool.transaction() as db:
            db.execute(_SCHEMA)
            db.execute(ROUTES_SCHEMA)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        route = find_route(self._routes, scope["path"])
        if route is None:
            self._note_unknown(scope)
            await answer(send, 404, b"not here: is the secret at the end of the URI right?\n")
        elif scope["method"] != "POST":
            await answer(send, 405, b"post it\n")
        else:
            await self._take(route, scope, receive, send)

    async def _take(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            await answer(send, 413, b"too large, or too slow\n")
            return
        if not body:
            await answer(send, 400, b"there is no body\n")
            return
        headers = dict(scope["headers"])
        query = _kept_query(route, scope["query_string"])
        content_type = headers.get(b"content-type", b"application/json").decode("latin-1")
        try:
            is_new = await asyncio.to_thread(self._keep, route, query, content_type, body)
        except SpoolError as error:
            self._note_refusal(route, error)
            await answer(send, 503, b"not kept: the spool is full or failing\n")
            return
        self.problem = None
        self.posts[route.name, "kept" if is_new else "repeated"] += 1
        if is_new and (wake := self.wakes.get(route.lane)):
            wake.set()
        await answer(send, 200, b'{"status": "success"}\n', "application/json")

    def _keep(self, route: Route, query: str, content_type: str, body: bytes) -> bool:
        """Store a post; False for a retry of a stored one."""
        head = json.dumps({"query": query, "content_type": content_type[:100]}).encode()
        kept = head + b"\n" + gzip.compress(body, compresslevel=3, mtime=0)
        with self._spool.transaction() as db:
            if route.retry_window_seconds:
                now_millis = wall_clock_millis()
                since = now_millis - int(route.retry_window_seconds * 1000)
                db.execute(
                    "DELETE FROM relay_seen WHERE route = ? AND seen_at NOT BETWEEN ? AND ?",
                    (route.name, since, now_millis),
                )
                done = db.execute(
                    "INSERT OR IGNORE INTO relay_seen VALUES (?, ?, ?)",
                    (route.name, digest_of(query, body), now_millis),
                )
                if not done.rowcount:
                    note_post(db, route.name, is_new=False, at_millis=now_millis)
                    return False
            note_post(db, route.name, is_new=True, at_millis=wall_clock_millis())
            self._spool.put_within(db, route.lane, [(new_id(), kept)])
        return True

    def _note_unknown(self, scope: Scope) -> None:
        """Count a post with a wrong secret, and log the first of each address; never the path."""
        kind = scope["path"].strip("/").partition("/")[0]
        if scope["method"] != "POST" or kind not in KINDS:
            return  # a scanner's request, not that of a sender with a wrong secret
        self.posts["", "wrong_secret"] += 1
        client = scope.get("client")
        address = str(client[0])[:64] if client else "unknown"
        if self.wrong_secrets.note(address, at=datetime.now(tz=UTC)):
            log.warning(
                "relay_post_refused address=%s kind=%s: no route has the secret in its path",
                address,
                kind,
            )

    def _note_refusal(self, route: Route, error: SpoolError) -> None:
        self.posts[route.name, "refused"] += 1
        if self.problem is None:
            log.warning(
                "relay_refuses route=%s: posts are lost until this ends: %s", route.name, error
            )
        self.problem = (
            f"route {route.name}: a post was refused at {datetime.now(tz=UTC):%H:%M:%S} UTC and "
            f"is lost: {error}"
        )


def _kept_query(route: Route, query: bytes) -> str:
    wanted = KEPT_QUERY[route.kind]
    return urlencode([(k, v) for k, v in parse_qsl(query.decode("latin-1")) if k in wanted])


async def _body(receive: Receive) -> bytes | None:
    """Return a body; None for one that is too large, too slow, or incomplete."""
    try:
        return await read_body(receive, limit_bytes=MAX_BODY_BYTES, read_seconds=BODY_SECONDS)
    except BodyError:
        return None
