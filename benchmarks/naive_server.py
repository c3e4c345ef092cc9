"""The design this project does not have, written as one would: a session, SELECT, UPDATE, commit.

FastAPI and SQLAlchemy on SQLite with the same durability (WAL, synchronous FULL), an index on what
is looked up, a table of ids for deduplication, sums per user, series and day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import BigInteger, Engine, String, UniqueConstraint, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """The tables."""


class Seen(Base):
    """An id that was counted."""

    __tablename__ = "seen"
    report_id: Mapped[str] = mapped_column(String(255), primary_key=True)


class UserTotal(Base):
    """A user's bytes."""

    __tablename__ = "user_total"
    username: Mapped[str] = mapped_column(String(255), primary_key=True)
    upload_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    download_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class DayTotal(Base):
    """A user's bytes on one server and day."""

    __tablename__ = "day_total"
    __table_args__ = (UniqueConstraint("day", "username", "server", "port", "protocol"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[int]
    username: Mapped[str] = mapped_column(String(255))
    server: Mapped[str] = mapped_column(String(255))
    port: Mapped[int]
    protocol: Mapped[str] = mapped_column(String(64))
    upload_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    download_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Body(BaseModel):
    """A report as it is sent."""

    user_token: str
    server: str
    port: int
    protocol: str
    bytes_uploaded: int
    bytes_downloaded: int
    report_id: str


def naive_app(path: Path) -> FastAPI:
    """Return the application; its tables are made at once."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    _make_durable(engine)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    writing = asyncio.Lock()  # SQLite has one writer: waiting here beats failing there
    app = FastAPI()

    def session() -> Iterator[Session]:
        with sessions() as opened:
            yield opened

    @app.post("/v1/reports")
    async def take(
        body: list[Body] | Body,
        session: Session = Depends(session),  # noqa: B008, FAST002 - a local name cannot be looked up
    ) -> dict[str, int]:
        reports = body if isinstance(body, list) else [body]
        async with writing:
            accepted = sum(_count(session, each) for each in reports)
        return {"accepted": accepted, "duplicates": len(reports) - accepted}

    return app


def _make_durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")


def _count(session: Session, body: Body) -> bool:
    if session.get(Seen, body.report_id) is not None:
        return False
    session.add(Seen(report_id=body.report_id))
    total = session.get(UserTotal, body.user_token)
    if total is None:
        total = UserTotal(username=body.user_token, upload_bytes=0, download_bytes=0)
        session.add(total)
    total.upload_bytes += body.bytes_uploaded
    total.download_bytes += body.bytes_downloaded
    found = session.scalar(
        select(DayTotal).where(
            DayTotal.day == 0,
            DayTotal.username == body.user_token,
            DayTotal.server == body.server,
            DayTotal.port == body.port,
            DayTotal.protocol == body.protocol,
        )
    )
    if found is None:
        found = DayTotal(
            day=0,
            username=body.user_token,
            server=body.server,
            port=body.port,
            protocol=body.protocol,
            upload_bytes=0,
            download_bytes=0,
        )
        session.add(found)
    found.upload_bytes += body.bytes_uploaded
    found.download_bytes += body.bytes_downloaded
    session.commit()
    return True
