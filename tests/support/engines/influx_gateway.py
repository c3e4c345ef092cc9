"""InfluxDB 2.x's HTTP API before a 1.x engine, as far as the product uses it; for tests only.

Buckets `db/rp` are retention policies, `/api/v2/write` is `/write`, `/query` passes through.
Organizations, tokens and default mappings live here, behaving as InfluxDB 2.9.1 was seen to: a
token sees the buckets it may read and no organization, 401 for an unknown one, 403 for a write it
may not do, 404 for a write to a bucket that is missing. A bucket that is made anew has another id,
so that tokens for the one before do not reach it. What 1.x
answers to a write passes through as it is. A delete reaches all policies of the database, since
1.x knows no other.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from tests.support.whole_bodies import whole_body

ORG_ID = "0000000000000001"
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass
class Gateway:
    """The translation, and what 1.x cannot remember."""

    engine_port: int
    org: str
    operator_token: str
    authorizations: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_mapped: bool = False
    bucket_ids: dict[str, str] = field(default_factory=dict)
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"gateway": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Ask the engine; OSError while it is away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.engine_port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def influxql(self, statement: str) -> list[dict[str, Any]]:
        status, body = self.ask("POST", f"/query?{urlencode({'q': statement})}")
        assert status == 200, body
        return json.loads(body)["results"]

    def buckets(self) -> list[dict[str, Any]]:
        found = []
        for (db,) in self._values("SHOW DATABASES"):
            for row in self._values(f'SHOW RETENTION POLICIES ON "{db}"'):
                name = f"{db}/{row[0]}"
                found.append(
                    {
                        "id": self.bucket_ids.setdefault(name, secrets.token_hex(8)),
                        "orgID": ORG_ID,
                        "name": name,
                        "type": "user",
                        "retentionRules": [{"type": "expire", "everySeconds": _seconds(row[1])}],
                    }
                )
        names = {each["name"] for each in found}
        self.bucket_ids = {name: each for name, each in self.bucket_ids.items() if name in names}
        return [each for each in found if not each["name"].startswith("_")]

    def _values(self, statement: str) -> list[list[Any]]:
        series = self.influxql(statement)[0].get("series", [])
        return [row for each in series for row in each.get("values", [])]

    def set_policy(self, name: str, rule: dict[str, Any]) -> None:
        """Make a retention policy, with its database, be as it should."""
        db, _, policy = name.partition("/")
        if [db] not in self._values("SHOW DATABASES"):
            self.influxql(f'CREATE DATABASE "{db}" WITH NAME "{policy}"')
        seconds = rule.get("everySeconds", 0)
        shards = f" SHARD DURATION {rule.get('shardGroupDurationSeconds') or 604800}s"
        default = " DEFAULT" if policy == "raw" else ""
        duration = f"{seconds}s" if seconds else "INF"
        for each in ("CREATE", "ALTER"):
            self.influxql(
                f'{each} RETENTION POLICY "{policy}" ON "{db}" DURATION {duration} REPLICATION 1'
                f"{shards}{default}"
            )


def _seconds(duration: str) -> int:
    hours, minutes, seconds = (int(each or 0) for each in _DURATION.fullmatch(duration).groups())
    return hours * 3600 + minutes * 60 + seconds


class _Handler(BaseHTTPRequestHandler):
    """One request; `gateway` is set by the class made for each gateway."""

    gateway: Gateway
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        try:
            self._route()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # as an engine that is away: no answer

    def _route(self) -> None:
        self.body = whole_body(self)
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path in {"/ping", "/health"}:
            status, _ = self.gateway.ask("GET", "/ping")
            return self._answer(200 if status == 204 else 503, {"status": "pass"})
        token = self.headers.get("authorization", "").removeprefix("Token ")
        self.is_operator = token == self.gateway.operator_token
        mine = [each for each in self.gateway.authorizations.values() if each["token"] == token]
        if not self.is_operator and not mine:
            return self._fail(401, "unauthorized", "unauthorized access")
        self.permissions = [
            (each["action"], each["resource"]["id"]) for it in mine for each in it["permissions"]
        ]
        name, *arguments = parts.path.removeprefix("/api/v2").strip("/").split("/")
        return getattr(self, f"_{self.command.lower()}_{name}")(*arguments)

    def _may(self, action: str, bucket: dict[str, Any]) -> bool:
        return self.is_operator or (action, bucket["id"]) in self.permissions

    def _answer(self, status: int, content: Any = None) -> None:
        body = content if isinstance(content, bytes) else b""
        if content is not None and not isinstance(content, bytes):
            body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"code": code, "message": message})

    def _get_orgs(self) -> None:
        if self.query.get("org", self.gateway.org) != self.gateway.org:
            return self._fail(404, "not found", "organization name not found")
        known = [{"id": ORG_ID, "name": self.gateway.org}] if self.is_operator else []
        return self._answer(200, {"orgs": known})

    def _get_buckets(self) -> None:
        seen = [each for each in self.gateway.buckets() if self._may("read", each)]
        offset, limit = int(self.query.get("offset", 0)), int(self.query.get("limit", 20))
        self._answer(200, {"buckets": seen[offset : offset + limit]})

    def _post_buckets(self) -> None:
        if not self.is_operator:  # nobody else sees the organization, whose id is to be sent
            return self._fail(401, "unauthorized", "write:orgs/buckets is unauthorized")
        asked = json.loads(self.body)
        self.gateway.set_policy(asked["name"], asked["retentionRules"][0])
        return self._answer(201, self._named(asked["name"]))

    def _patch_buckets(self, bucket_id: str) -> None:
        bucket = next(each for each in self.gateway.buckets() if each["id"] == bucket_id)
        if not self._may("write", bucket):
            return self._fail(401, "unauthorized", "write:orgs/buckets is unauthorized")
        rule = json.loads(self.body)["retentionRules"][0]
        self.gateway.set_policy(bucket["name"], rule)
        return self._answer(200, self._named(bucket["name"]))

    def _delete_buckets(self, bucket_id: str) -> None:
        bucket = next(each for each in self.gateway.buckets() if each["id"] == bucket_id)
        if not self._may("write", bucket):
            return self._fail(401, "unauthorized", "write:orgs/buckets is unauthorized")
        db, _, policy = bucket["name"].partition("/")
        self.gateway.influxql(f'DROP RETENTION POLICY "{policy}" ON "{db}"')
        return self._answer(204)

    def _named(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.gateway.buckets() if each["name"] == name), None)

    def _get_dbrps(self) -> None:
        if not self.is_operator:
            return self._answer(200, {"content": []})
        mapping = {
            "id": ORG_ID,
            "orgID": ORG_ID,
            "bucketID": ORG_ID,
            "database": "traffic",
            "retention_policy": "raw",
            "default": self.gateway.is_mapped,
            "virtual": not self.gateway.is_mapped,
        }
        return self._answer(200, {"content": [mapping]})

    def _post_dbrps(self) -> None:
        self.gateway.is_mapped = True
        self._answer(201, json.loads(self.body) | {"id": ORG_ID, "virtual": False})

    def _get_authorizations(self) -> None:
        shown = [each | {"token": ""} for each in self.gateway.authorizations.values()]
        self._answer(200, {"authorizations": shown})

    def _post_authorizations(self) -> None:
        made = json.loads(self.body)
        made |= {"id": secrets.token_hex(8), "token": secrets.token_urlsafe(48), "status": "active"}
        self.gateway.authorizations[made["id"]] = made
        self._answer(201, made)

    def _delete_authorizations(self, authorization_id: str) -> None:
        del self.gateway.authorizations[authorization_id]
        self._answer(204)

    def _post_write(self) -> None:
        bucket = self._named(self.query["bucket"])
        if bucket is None or self.query["org"] != self.gateway.org:
            return self._fail(404, "not found", f'bucket "{self.query["bucket"]}" not found')
        if not self._may("write", bucket):
            return self._fail(403, "forbidden", "insufficient permissions for write")
        db, _, policy = bucket["name"].partition("/")
        target = f"/write?db={quote(db)}&rp={quote(policy)}&precision=n"
        encoding = self.headers.get("content-encoding")
        headers = {"content-encoding": encoding} if encoding else {}
        return self._answer(*self.gateway.ask("POST", target, self.body, headers))

    def _post_delete(self) -> None:
        bucket = self._named(self.query["bucket"])
        if bucket is None:
            return self._fail(404, "not found", "bucket not found")
        db, stop = bucket["name"].partition("/")[0], json.loads(self.body)["stop"]
        statement = f"DELETE FROM /.*/ WHERE time < '{stop}'"
        status, body = self.gateway.ask("POST", f"/query?{urlencode({'db': db, 'q': statement})}")
        return self._answer(204) if status == 200 else self._answer(status, body)

    def _post_query(self) -> None:
        self._pass_query()

    def _get_query(self) -> None:
        self._pass_query()

    def _pass_query(self) -> None:
        headers = {}
        if content_type := self.headers.get("content-type"):
            headers["content-type"] = content_type
        self._answer(*self.gateway.ask(self.command, self.path, self.body or None, headers))
