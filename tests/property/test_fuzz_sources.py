"""Whatever is posted as another panel's: an answer of the documented kind, and books that agree."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.cli.main import main
from collector.ledger.sqlite.reader import SqliteReader
from collector.runtime.config import ConfigError
from collector.sources.config import read_sources
from tests.support.collector.collectors import KEY, CollectorWorld, running
from tests.support.hostile_input import OwnLoop, bodies, changed, header_values, json_values, texts

THREE_X_UI = f"/v1/sources/3x-ui/{KEY}"
UNIPROXY = f"/v1/sources/uniproxy/{KEY}?node_id=7&node_type=vless"
CLIENT = {"id": 0, "enable": False, "email": "alice", "up": 1, "down": 2, "allTime": 9, "total": 0}
INFORM = {"clientTraffics": [CLIENT], "inboundTraffics": [{"Tag": "in", "Up": 1, "Down": 2}]}
REFUSALS = {400, 401, 403, 404, 413, 415, 422, 429}
fuzz = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Fuzzed:
    """A collector under fire, and what it says it has counted."""

    def __init__(self, folder):
        self._loop = OwnLoop()
        sources = folder / "sources.toml"
        sources.write_text("[uniproxy.r]\nusers = 'identity'\nretry_window_seconds = 0\n")
        environment = {"COLLECTOR_SOURCES_FILE": str(sources)}
        world = CollectorWorld(path=folder / "ledger.sqlite3", environment=environment)
        self.world = self._loop.enter(running(world))
        self.close = self._loop.close

    def post(self, path, body, headers=None):
        async def post():
            before = await self.world.get("/v1/usage")
            answer = await self.world.client.post(path, content=body, headers=headers or {})
            after = await self.world.get("/v1/usage")
            grown = [after[each] - before[each] for each in ("upload_bytes", "download_bytes")]
            return answer, sum(grown), after["reports"] - before["reports"]

        return self._loop.run(post())


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    fuzzed = Fuzzed(tmp_path_factory.mktemp("fuzzed"))
    yield fuzzed
    fuzzed.close()


def check(answer, grown_bytes, grown_reports):
    said = answer.json()
    if answer.status_code != 200:
        assert answer.status_code in REFUSALS
        assert set(said) == {"type", "title", "status", "detail", "errors"}
        assert len(said["detail"]) < 1000
        assert (grown_bytes, grown_reports) == (0, 0)
    else:
        assert set(said) == {"accepted", "duplicates", "ignored", "rejected"}
        assert grown_reports == said["accepted"]
        assert all(each["field"] and each["reason"] for each in said["rejected"])
    return said


@fuzz
@given(
    path=st.sampled_from([THREE_X_UI, UNIPROXY]),
    body=bodies(INFORM, {"42": [1, 2], "43": [0, 0]}, {"clientTraffics": None}, []),
)
@example(path=UNIPROXY, body=b'{"\\ud800": [1, 2]}')
@example(path=UNIPROXY, body=b'{"a": ["\\ud800", 2], "b": "\\ud800"}')
@example(path=THREE_X_UI, body=b'{"clientTraffics": [{"email": "\\ud800", "up": 1}]}')
@example(path=UNIPROXY, body=json.dumps({"a": [2**62, 2**62], "b": [2**62 + 1, 0]}).encode())
def test_any_body_is_answered_and_a_refused_one_counts_nothing(fuzzed, path, body):
    check(*fuzzed.post(path, body))


@fuzz
@example(rows=["\ud800", CLIENT | {"up": "\ud800"}])
@given(rows=st.lists(st.one_of(changed(CLIENT), json_values), min_size=1, max_size=4))
def test_of_clients_with_something_wrong_exactly_those_not_named_are_counted(fuzzed, rows):
    rows = [as_another_client(index, row) for index, row in enumerate(rows)]
    answer, grown_bytes, grown_reports = fuzzed.post(
        THREE_X_UI, json.dumps(INFORM | {"clientTraffics": rows}).encode()
    )
    said = check(answer, grown_bytes, grown_reports)
    if answer.status_code == 200:
        refused = {each["index"] for each in said["rejected"]}
        taken = [row for index, row in enumerate(rows) if index not in refused and row is not None]
        assert grown_bytes == sum(int(row.get("up", 0) + row.get("down", 0)) for row in taken)


def as_another_client(index, row):
    """Give each row a client of its own: rows of the same one are one report."""
    if isinstance(row, dict) and isinstance(row.get("email"), str):
        return row | {"email": f"{row['email']}{index}"}
    return row


@fuzz
@given(
    push=st.dictionaries(
        texts, st.one_of(st.tuples(st.integers(0, 9), st.integers(0, 9)), json_values)
    )
)
def test_of_a_push_exactly_the_users_not_named_are_counted(fuzzed, push):
    answer, grown_bytes, grown_reports = fuzzed.post(UNIPROXY, json.dumps(push).encode())
    said = check(answer, grown_bytes, grown_reports)
    if answer.status_code == 200:
        refused = {each["index"] for each in said["rejected"]}
        taken = [amounts for index, amounts in enumerate(push.values()) if index not in refused]
        assert grown_bytes == sum(int(up + down) for up, down in taken)


@fuzz
@given(
    node_id=texts,
    node_type=texts,
    name=st.sampled_from(["webhook-id", "idempotency-key", "content-encoding", "authorization"]),
    value=header_values,
)
def test_any_query_and_header_is_answered(fuzzed, node_id, node_type, name, value):
    query = f"node_id={quoted(node_id)}&node_type={quoted(node_type)}"
    path = f"/v1/sources/uniproxy/{KEY}?{query}"
    check(*fuzzed.post(path, b'{"42": [1, 2]}', {name.encode(): value}))


@fuzz
@given(key=texts, kind=st.sampled_from(["3x-ui", "uniproxy"]))
def test_no_invented_key_is_accepted(fuzzed, key, kind):
    answer, *grown = fuzzed.post(f"/v1/sources/{kind}/{quoted(key)}", b"{}")
    check(answer, *grown)
    assert answer.status_code in {401, 404}


def quoted(text):
    return "".join(f"%{each:02x}" for each in text.encode("utf-8", "surrogatepass"))


lines = st.one_of(
    st.sampled_from(
        [
            "[3x-ui.a]",
            "[uniproxy.a]",
            "[uniproxy.a.users.table]",
            "users = 'identity'",
            "users = { pattern = '(?P<username>.+)' }",
            "nodes = { 7 = 'fr-1' }",
            "port = 443",
        ]
    ),
    st.tuples(
        st.sampled_from(["server", "port", "users", "nodes", "42", "'3x-ui'"]), json_values
    ).map(lambda pair: f"{pair[0]} = {json.dumps(pair[1])}"),
    st.text(max_size=20),
)


@fuzz
@given(text=st.lists(lines, max_size=6).map("\n".join))
def test_any_sources_file_is_understood_or_refused_in_one_line(text):
    try:
        read_sources(text)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right


COLUMNS = (
    "report_id,user_token,server,port,protocol,bytes_uploaded,bytes_downloaded,day,reported_at"
)
cells = st.one_of(
    st.sampled_from(
        ["alice", "de-1", "443", "0", "17", "-1", "2026-01-05", "1767571200", '"', "1e3"]
    ),
    texts,
)
csv_lines = st.one_of(
    st.just("id,alice,de-1,443,vless,1,2,2026-01-05,"),
    st.lists(cells, min_size=9, max_size=9).map(",".join),
    cells,
)


@fuzz
@example(
    body=f"{COLUMNS}\n,a,b,\udcff,v,\udcff,2,\udcff,\udcff".encode("utf-8", "surrogateescape"),
    arguments=["--all"],
)
@example(
    body=f"{COLUMNS}\n,a,b,\udcff,v,\udcff,2,2026-01-05,".encode("utf-8", "surrogateescape"),
    arguments=["--all"],
)
@given(
    body=st.one_of(
        st.lists(csv_lines, min_size=1, max_size=5).map(
            lambda rows: "\n".join([COLUMNS, *rows]).encode("utf-8", "surrogatepass")
        ),
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda more: b"SQLite format 3\0" + more),
    ),
    arguments=st.sampled_from([["--all"], ["--since", "2026-01-05"], ["--all", "--dry-run"]]),
)
def test_any_file_is_imported_with_books_that_balance_or_refused_with_none_begun(
    tmp_path_factory, monkeypatch, capsys, body, arguments
):
    folder = tmp_path_factory.mktemp("import")
    ledger, file = folder / "ledger.sqlite3", folder / "a.csv"
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{ledger}")
    file.write_bytes(body)
    code = main(["import", str(file), *arguments])
    said = capsys.readouterr()
    assert "do NOT agree" not in said.out
    assert ("The sums agree." in said.out) == (code == 0)
    if code == 0 and ledger.exists():
        reader = SqliteReader(ledger)
        assert reader.audit().problems == []
        reader.close()
