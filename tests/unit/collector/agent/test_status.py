"""What `status` says: the newest that is known, and that nobody runs where nobody does."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from collector.agent.errors import AgentError
from collector.agent.state import lock as agent_lock
from collector.agent.state.lock import Heartbeat, heartbeat_of, lock
from collector.agent.state.relay_posts import RefusedPosts, RouteStatus
from collector.agent.state.state import SourceStatus
from collector.agent.status import agent_status
from collector.agent.views import show_status
from collector.client.outbox import Backlog

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def signs(**changes):
    fields = {"pid": 7, "purpose": "run", "has_ended": False, "seen_at": NOW, **changes}
    return Heartbeat(**fields)


def source(problem=None):
    return SourceStatus("x", NOW, 1, 0, 0, 0, 0, (), problem)


def found(signs, *, lanes=None, statuses=()):
    return agent_status(signs, lanes=lanes or {}, statuses=statuses, now=NOW)


def test_an_agent_that_runs_and_has_no_problem_is_well():
    assert not found(signs(), statuses=[source()]).is_wrong


@pytest.mark.parametrize(
    "changes",
    [
        {"has_ended": True},
        {"seen_at": NOW - timedelta(seconds=61)},
        {"lanes": {"reports": "answers 503"}},
        {"sources": {"x": "no answer"}},
        {"sources": {"never read": "no answer"}},
        {"relay": "refused"},
        {"refused": "3 posts with a secret that no route has"},
    ],
)
def test_what_is_wrong_is_seen_though_nothing_could_be_kept(changes):
    assert found(signs(**changes), statuses=[source()]).is_wrong


def test_what_the_agent_says_is_newer_than_what_could_be_kept():
    well = signs(lanes={"reports": None}, sources={"x": None})
    assert not found(well, lanes={"reports": "old"}, statuses=[source("old")]).is_wrong
    untried = found(signs(), lanes={"reports": "old"})
    assert untried.lanes == {"reports": "old"}


def test_what_an_agent_said_before_it_ended_is_no_news():
    ended = found(signs(has_ended=True, lanes={"reports": "x"}), lanes={})
    assert ended.lanes == {}
    assert "No agent runs" in ended.process


def test_who_is_run_once_need_not_run():
    assert not found(signs(purpose="once", has_ended=True)).is_wrong


def test_signs_are_given_in_place_and_read_beside(tmp_path):
    state = tmp_path / "state"
    with lock(state) as held:
        size_bytes = (tmp_path / "state.lock").stat().st_size
        held.write_heartbeat(lanes={"reports": "x" * 1000}, sources={"a": None}, relay=None)
        read = heartbeat_of(state)
        assert read.pid == os.getpid()
        assert read.lanes["reports"].startswith("xxx")
        assert read.sources == {"a": None}
        many = {f"source-{number}": "y" * 300 for number in range(1000)}
        held.write_heartbeat(
            lanes={"reports": None}, sources=many, relay="no room", refused="3 posts"
        )
        assert heartbeat_of(state).refused == "3 posts"
        assert heartbeat_of(state).relay == "no room"
        assert (tmp_path / "state.lock").stat().st_size == size_bytes
        with pytest.raises(AgentError, match=rf"another agent \(pid {os.getpid()}\)"):
            lock(state)
    lock(state).__exit__(None, None, None)


def test_the_lock_of_an_older_version_says_nothing(tmp_path):
    (tmp_path / "state.lock").write_text("123")
    assert heartbeat_of(tmp_path / "state") is None
    with lock(tmp_path / "state"):
        assert heartbeat_of(tmp_path / "state").purpose == agent_lock.RUN
    assert heartbeat_of(tmp_path / "other") is None


def shown(found, **options):
    console = Console(file=io.StringIO(), width=100)
    defaults = {"backlog": Backlog(0, 0, None, 0), "now": NOW, "if_empty": {}}
    show_status(console, found, **(defaults | options))
    return console.file.getvalue()


def test_status_shows_each_route_and_when_it_took_a_post_last():
    routes = [RouteStatus("panel", NOW - timedelta(minutes=3), 12, 1), RouteStatus("new", None)]
    told = shown(replace(found(signs(refused="3 posts refused")), routes=routes))
    (panel,) = (line for line in told.splitlines() if " panel " in line)
    assert "3 min ago" in panel
    assert "12" in panel
    (new,) = (line for line in told.splitlines() if " new " in line)
    assert "never" in new
    assert "relay: 3 posts refused" in told


def test_status_asks_why_a_source_shows_no_counters():
    empty = replace(source(), counters=0)
    assert "statsUserUplink" in shown(
        found(signs(), statuses=[empty]), if_empty={"x": "statsUserUplink"}
    )
    for other in (source(), replace(empty, problem="away"), replace(empty, read_at=None)):
        assert "statsUserUplink" not in shown(
            found(signs(), statuses=[other]), if_empty={"x": "statsUserUplink"}
        )


def test_names_that_match_no_user_are_listed_whole():
    key = "Xr0QIl4dBhq2xYq1vRO0ZQy0Lw1nJm6sB3d8E5u7F0g="
    names = tuple(f"wg0 {number:02} {key}" for number in range(20))
    told = shown(found(signs(), statuses=[replace(source(), unmapped=25, unmapped_names=names)]))
    assert [line.strip() for line in told.splitlines() if key in line] == list(names)
    assert "and 5 more" in told


def test_posts_with_a_wrong_secret_are_told_for_an_hour():
    refused = RefusedPosts()
    assert refused.problem(NOW) is None
    news = [refused.note(f"198.51.100.{number % 30}", at=NOW) for number in range(60)]
    assert news == [True] * 60, "those noted longest ago are dropped"
    assert not refused.note("198.51.100.29", at=NOW)
    assert "61 posts" in refused.problem(NOW + timedelta(minutes=59))
    assert "198.51.100.29 (2)" in refused.problem(NOW)
    assert refused.problem(NOW + timedelta(minutes=61)) is None
