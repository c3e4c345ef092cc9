"""Whatever is posted as a report: an answer of the documented kind, and books that agree with it."""

from __future__ import annotations

import base64
import gzip
import json
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.reports.reporters import hash_key, signing_secret
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_REPORTER,
    KEY,
    CollectorWorld,
    running,
    wire,
)
from tests.support.hostile_input import (
    OwnLoop,
    bodies,
    changed,
    damaged,
    header_values,
    json_values,
    texts,
)

PATHS = ("/v1/reports", "/api/xpert/traffic-webhook")
REFUSALS = {400, 401, 413, 415, 422, 429}
fuzz = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Fuzzed:
    """A collector under fire, and what it says it has counted."""

    def __init__(self, folder) -> None:
        self._loop = OwnLoop()
        environment = {"COLLECTOR_USER_REQUESTS_PER_SECOND": "0"}
        world = CollectorWorld(path=folder / "ledger.sqlite3", environment=environment)
        self.world = self._loop.enter(running(world))
        self.close = self._loop.close

    def post(self, path, body, headers):
        async def post():
            before = await self.world.get("/v1/usage")
            answer = await self.world.client.post(path, content=body, headers=headers)
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
    """Hold an answer to its shape, and the books to the answer; return its body."""
    said = answer.json()
    if answer.status_code != 200:
        assert answer.status_code in REFUSALS
        assert set(said) == {"type", "title", "status", "detail", "errors"}
        assert said["detail"]
        assert len(said["detail"]) < 1000
        assert (grown_bytes, grown_reports) == (0, 0)
    elif "message" in said:
        assert set(said) - {"unknown_fields"} == {"status", "message"}
        assert grown_reports <= 1
    else:
        expected = {"accepted", "duplicates", "ignored", "rejected"}
        assert set(said) - {"unknown_fields"} == expected
        assert grown_reports == said["accepted"]
    return said


@fuzz
@given(
    path=st.sampled_from(PATHS),
    body=bodies(wire(), [wire(), wire("bob")], wire(ALICE_TOKEN), [wire(report_id="a")]),
    headers=st.sampled_from([{}, AS_REPORTER]),
)
def test_any_body_is_answered_and_a_refused_one_counts_nothing(fuzzed, path, body, headers):
    check(*fuzzed.post(path, body, headers))


@fuzz
@given(reports=st.lists(st.one_of(changed(wire()), json_values), min_size=1, max_size=4))
@example(reports=[wire(), wire(server="\ud800"), wire(port=443.0), wire(bytes_uploaded=1e3)])
def test_of_reports_with_something_wrong_exactly_those_not_named_are_counted(fuzzed, reports):
    answer, grown_bytes, grown_reports = fuzzed.post(
        "/v1/reports", json.dumps(reports).encode(), AS_REPORTER
    )
    said = check(answer, grown_bytes, grown_reports)
    if answer.status_code == 200:
        refused = {each["index"] for each in said["rejected"]}
        taken = [each for index, each in enumerate(reports) if index not in refused]
        assert len(taken) == said["accepted"] + said["duplicates"] + said["ignored"]
        assert all(each["field"] and each["reason"] for each in said["rejected"])
        if not said["duplicates"]:
            sizes = [each["bytes_uploaded"] + each["bytes_downloaded"] for each in taken]
            assert grown_bytes == sum(map(int, sizes))


@fuzz
@given(
    body=st.one_of(
        st.just(gzip.compress(json.dumps(wire()).encode())).flatmap(damaged),
        st.binary(max_size=100),
        st.binary(max_size=50).map(lambda more: gzip.compress(b"{}") + more),
        st.integers(0, 40).map(lambda cut: gzip.compress(json.dumps(wire()).encode())[: -cut or 1]),
    )
)
@example(body=gzip.compress(json.dumps(wire()).encode()) + gzip.compress(b" "))
@example(body=gzip.compress(json.dumps(wire()).encode())[:-4] + b"\0\0\0\0")
@example(body=gzip.compress(json.dumps(wire()).encode())[:-8] + b"\0" * 8)
@example(body=zlib.compress(json.dumps(wire()).encode()))
@example(body=gzip.compress(gzip.compress(json.dumps(wire()).encode())))
@example(body=gzip.compress(b"[" + b" " * 9_000_000 + b"]"))
def test_any_gzip_is_whole_or_refused(fuzzed, body):
    headers = AS_REPORTER | {"content-encoding": "gzip"}
    answer, grown_bytes, grown_reports = fuzzed.post("/v1/reports", body, headers)
    check(answer, grown_bytes, grown_reports)
    try:
        is_whole = len(gzip.decompress(body)) <= 8 * 2**20
    except (OSError, EOFError, zlib.error):
        is_whole = False
    assert is_whole or answer.status_code in {400, 413}


@fuzz
@given(
    name=st.sampled_from(
        ["authorization", "content-encoding", "content-type", "idempotency-key", "webhook-id"]
    ),
    value=header_values,
    also_signed=st.booleans(),
)
@example(name="content-length", value="\u00b2".encode("latin-1"), also_signed=False)
@example(name="content-length", value=b"9" * 5000, also_signed=False)
@example(name="authorization", value="Bearer ключ".encode(), also_signed=False)
@example(name="authorization", value=b"Basic " + base64.b64encode(b"a:b"), also_signed=True)
def test_any_header_is_answered(fuzzed, name, value, also_signed):
    headers = dict(AS_REPORTER) | ({"webhook-signature": "v1,AAAA"} if also_signed else {})
    headers = {each.encode(): given.encode() for each, given in headers.items()}
    check(
        *fuzzed.post("/v1/reports", json.dumps(wire()).encode(), headers | {name.encode(): value})
    )


SECRET = signing_secret(hash_key(KEY))
signatures = st.one_of(
    header_values,
    st.binary(min_size=32, max_size=32).map(lambda raw: b"v1," + base64.b64encode(raw)),
    st.lists(st.just(b"v1,x"), max_size=2000).map(b" ".join),
)


@fuzz
@given(
    signature=signatures,
    timestamp=st.one_of(header_values, st.integers(0, 10**13).map(lambda at: str(at).encode())),
    message_id=header_values,
    signer=texts,
)
def test_no_invented_signature_is_accepted(fuzzed, signature, timestamp, message_id, signer):
    headers = {
        b"webhook-signature": signature,
        b"webhook-timestamp": timestamp,
        b"webhook-id": message_id,
    }
    path = "/v1/reports"
    if signer.isprintable():
        path += f"?reporter={signer.replace('#', '').replace('&', '')}"
    for where in (path, "/v1/reports?reporter=r"):
        answer, *grown = fuzzed.post(where, json.dumps(wire()).encode(), headers)
        check(answer, *grown)
        assert answer.status_code in {401, 422}


@fuzz
@given(user_token=texts)
def test_without_a_key_only_a_token_of_the_panel_opens(fuzzed, user_token):
    answer, *grown = fuzzed.post("/v1/reports", json.dumps([wire(user_token)]).encode(), {})
    check(answer, *grown)
    assert answer.status_code in {401, 422}


@fuzz
@given(user_token=texts, credentials=st.one_of(st.none(), header_values))
def test_a_page_of_statistics_is_answered_to_no_stranger(fuzzed, user_token, credentials):
    async def get():
        headers = {} if credentials is None else {b"authorization": b"Bearer " + credentials}
        url = fuzzed.world.client.base_url.copy_with(
            raw_path=b"/api/xpert/traffic-stats/" + quoted(user_token)
        )
        return await fuzzed.world.client.get(url, headers=headers)

    answer = fuzzed._loop.run(get())
    assert answer.status_code in {401, 404, 405, 422, 429}


def quoted(text):
    return "".join(f"%{each:02x}" for each in text.encode("utf-8", "surrogatepass")).encode()
