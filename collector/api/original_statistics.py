"""Statistics under the paths, field names and units of an earlier collector's traffic page.

`_gb` fields are GiB rounded to three places. Unlike there, `days` is respected, a cleanup without
`days` uses COLLECTOR_RETENTION_DAYS, and every route needs authentication.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.maintenance import clean_up
from collector.api.pipeline import throttle
from collector.api.problems import ProblemError, documented
from collector.api.senders import AdminCredentials, address_of, is_admin, require_admin
from collector.api.usage import first_day, top_servers, usage_of
from collector.api.usage_answers import MOST_SERVERS, After, Limit, at
from collector.parts import Collector
from collector.reports.identity import subscription_token
from collector.reports.report import DAY_MILLIS, MAX_TOKEN_LENGTH, canonical

router = APIRouter(
    prefix="/api/xpert",
    tags=["original paths"],
    responses=documented(400, 401, 403, 422, 429, 503),
)

GIB = 2**30
TOP_SERVERS = 10

PeriodDays = Annotated[int, Query(ge=1, le=36500)]
for_admin = [Depends(require_admin)]


class OriginalServer(BaseModel):
    """A user's traffic on one server."""

    server: str
    port: int
    protocol: str
    upload_gb: float
    download_gb: float
    total_gb: float
    connections: int
    last_used: datetime | None


class OriginalUser(BaseModel):
    """A user's traffic."""

    user_token: str
    total_gb_used: float
    period_days: int
    servers: list[OriginalServer]


class TopServer(BaseModel):
    """One of the servers with the most traffic."""

    server: str
    port: int
    protocol: str
    total_gb: float


class OriginalGlobal(BaseModel):
    """Traffic of all users on all servers."""

    total_users: int
    total_servers: int
    total_gb_used: float
    total_connections: int
    total_protocols: int
    period_days: int
    top_servers: list[TopServer]


class PanelStatistics(OriginalGlobal):
    """The same, with the fields that the panel's page reads."""

    external_servers: Literal[True] = True
    integration_type: Literal["xpert"] = "xpert"
    data_source: Literal["traffic_monitoring_system"] = "traffic_monitoring_system"


class PanelAnswer(BaseModel):
    """The answer's envelope that the panel's page expects."""

    users_traffic: PanelStatistics


class OriginalDay(BaseModel):
    """Traffic of one UTC day."""

    date: str
    total_gb: float
    unique_users: int


class OriginalServerPage(BaseModel):
    """Traffic on one server over a period."""

    server: str
    port: int
    period_days: int
    unique_users: int
    total_gb_used: float
    total_connections: int
    avg_gb_per_connection: float
    daily_stats: list[OriginalDay]


class OriginalDatabase(BaseModel):
    """The ledger's size and row counts."""

    database_path: str
    total_records: int
    unique_users: int
    unique_servers: int
    database_size_mb: float
    retention_days: int


class OriginalCleanup(BaseModel):
    """What a cleanup removed."""

    status: Literal["success", "skipped"]
    deleted_rows: int
    cleanup_days: int


@router.get("/traffic-stats/global", dependencies=for_admin)
async def global_statistics(collector: CollectorPart, days: PeriodDays = 30) -> OriginalGlobal:
    """Return the traffic of all users on all servers."""
    return await _global(collector, days)


@router.get("/marzban-traffic-stats", dependencies=for_admin)
@router.get("/xpert-traffic-stats", dependencies=for_admin)
async def panel_statistics(collector: CollectorPart, days: PeriodDays = 30) -> PanelAnswer:
    """Return the same in the envelope that the panel's page expects."""
    found = await _global(collector, days)
    return PanelAnswer(users_traffic=PanelStatistics(**found.model_dump()))


@router.get(
    "/traffic-stats/server/{server:path}/{port}",
    dependencies=for_admin,
    responses=documented(404),
)
async def server_statistics(
    server: Annotated[str, Path(min_length=1, max_length=255)],
    port: Annotated[int, Path(ge=0, le=65535)],
    collector: CollectorPart,
    days: PeriodDays = 30,
) -> OriginalServerPage:
    """Return traffic on one server by day."""
    since_day = first_day(collector, days) or 0
    by_day = await collector.read_sums(
        lambda reader: reader.days_of_server(server, port, since_day=since_day)
    )
    sums = await collector.read_sums(
        lambda reader: reader.sums_of_server(server, port, since_day=since_day)
    )
    total_bytes = sums.upload_bytes + sums.download_bytes
    return OriginalServerPage(
        server=server,
        port=port,
        period_days=days,
        unique_users=sums.users,
        total_gb_used=_gib(total_bytes),
        total_connections=sums.connections,
        avg_gb_per_connection=_gib(total_bytes // sums.connections) if sums.connections else 0.0,
        daily_stats=[
            OriginalDay(
                date=datetime.fromtimestamp(each.day * DAY_MILLIS / 1000, tz=UTC)
                .date()
                .isoformat(),
                total_gb=_gib(each.upload_bytes + each.download_bytes),
                unique_users=each.users,
            )
            for each in by_day
        ],
    )


@router.get("/traffic-stats/database/info", dependencies=for_admin)
async def database_info(collector: CollectorPart) -> OriginalDatabase:
    """Return the ledger's size and counts."""
    facts = await collector.read_sums(lambda reader: reader.facts())
    return OriginalDatabase(
        database_path=facts.location,
        total_records=facts.records,
        unique_users=facts.users,
        unique_servers=facts.servers,
        database_size_mb=round(facts.size_bytes / 2**20, 2),
        retention_days=collector.settings.retention_days,
    )


@router.post("/traffic-stats/cleanup", dependencies=for_admin)
async def cleanup(
    collector: CollectorPart, days: Annotated[int | None, Query(ge=1, le=36500)] = None
) -> OriginalCleanup:
    """Remove rows older than so many days, or than the retention setting; totals stay."""
    kept_days = days or collector.settings.retention_days
    if not kept_days:
        return OriginalCleanup(status="skipped", deleted_rows=0, cleanup_days=0)
    removed = await clean_up(collector, kept_days)
    return OriginalCleanup(
        status="success",
        deleted_rows=removed.removed_reports + removed.removed_day_rows,
        cleanup_days=kept_days,
    )


@router.get("/traffic-stats/{user_token:path}", responses=documented(404))
async def user_statistics(
    request: Request,
    user_token: Annotated[str, Path(min_length=1, max_length=MAX_TOKEN_LENGTH)],
    collector: CollectorPart,
    credentials: AdminCredentials,
    *,
    days: PeriodDays = 30,
    after: After = 0,
    limit: Limit = MOST_SERVERS,
) -> OriginalUser:
    """Return a user's traffic: to the admin by username, to users by their subscription token.

    The total is over all servers; `servers` is a page of them, those with most traffic first. The
    rate limit of a user's reports also holds here.
    """
    username = await _username(request, collector, user_token, credentials)
    sums, servers = await usage_of(collector, username, days, after=after, limit=limit)
    return OriginalUser(
        user_token=user_token,
        total_gb_used=_gib(sums.upload_bytes + sums.download_bytes),
        period_days=days,
        servers=[
            OriginalServer(
                server=each.server,
                port=each.port,
                protocol=each.protocol,
                upload_gb=_gib(each.upload_bytes),
                download_gb=_gib(each.download_bytes),
                total_gb=_gib(each.upload_bytes + each.download_bytes),
                connections=each.connections,
                last_used=None if not each.last_used_at_millis else at(each.last_used_at_millis),
            )
            for each in servers
        ],
    )


async def _username(
    request: Request, collector: Collector, user_token: str, credentials: AdminCredentials
) -> str:
    token = subscription_token(user_token)
    if token is not None and collector.subscriptions is not None:
        username = await collector.subscriptions.resolve(token, stranger=address_of(request))
        throttle(collector.user_limit, username, collector)
        return username
    if not is_admin(collector, credentials):
        raise ProblemError(
            401, "send the COLLECTOR_ADMIN_KEY, or ask with your own subscription token"
        )
    return canonical(user_token)


async def _global(collector: Collector, days: int) -> OriginalGlobal:
    since_day = first_day(collector, days)
    found = await collector.read_sums(lambda reader: reader.summary(since_day=since_day))
    top = await top_servers(collector, days, limit=TOP_SERVERS)
    return OriginalGlobal(
        total_users=found.users,
        total_servers=found.servers,
        total_gb_used=_gib(found.upload_bytes + found.download_bytes),
        total_connections=found.connections,
        total_protocols=found.protocols,
        period_days=days,
        top_servers=[
            TopServer(
                server=each.server,
                port=each.port,
                protocol=each.protocol,
                total_gb=_gib(each.upload_bytes + each.download_bytes),
            )
            for each in top
        ],
    )


def _gib(amount_bytes: int) -> float:
    return round(amount_bytes / GIB, 3)
