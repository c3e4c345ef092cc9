"""The connection to InfluxDB: given up and taken anew, encrypted, and met with nonsense."""

from __future__ import annotations

import gzip
import shutil
import ssl
import subprocess
import threading
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest

from collector.errors import InfluxRefusedError, InfluxUnavailableError
from collector.influx.access import InfluxAccess
from collector.influx.buckets import Buckets
from collector.influx.client import Influx, open_client
from collector.influx.kinds import TargetKind
from collector.influx.lines import PackedLines
from collector.influx.outcome import Halt, Retry, Stored
from collector.influx.victoria import VictoriaStorage
from tests.support.fixed_answers import Server, serving

LINE = "m v=1i 1"


def access_to(url, **changes):
    return InfluxAccess(**({"url": url, "org": "vpn", "token": "t"} | changes))


def test_giving_the_connection_up_lets_a_write_that_is_under_way_end():
    is_asked, may_answer = threading.Event(), threading.Event()

    def wait():
        is_asked.set()
        may_answer.wait(120)

    clients, outcomes = [], []

    def open_noted(access):
        clients.append(open_client(access))
        return clients[-1]

    with serving(Server(204, body=b"", before_answer=wait)) as server:
        influx = Influx(access_to(server.url), open_client=open_noted)
        writing = threading.Thread(
            target=lambda: outcomes.append(influx.write("traffic/raw", [LINE]))
        )
        writing.start()
        assert is_asked.wait(120)
        influx.close()
        assert not clients[0].is_closed
        may_answer.set()
        writing.join(20)
        assert outcomes == [Stored()]
        assert clients[0].is_closed
        assert influx.write("traffic/raw", [LINE]) == Stored()
        influx.close()
    assert [each.is_closed for each in clients] == [True, True]


def test_packed_lines_are_sent_as_they_were_packed():
    bodies = []

    def store(request):
        bodies.append(request.read())
        return httpx.Response(204)

    def open_fake(access):
        return httpx.Client(base_url=access.url, transport=httpx.MockTransport(store))

    with closing(Influx(access_to("http://influx.test"), open_client=open_fake)) as influx:
        packed = PackedLines(f"{LINE}\n{LINE}2", lines=2)
        assert influx.write("traffic/raw", packed) == Stored()
        assert influx.write("traffic/raw", [LINE, f"{LINE}2"]) == Stored()
    assert bodies[0] == packed.body
    assert [gzip.decompress(each) for each in bodies] == [f"{LINE}\n{LINE}2".encode()] * 2


@pytest.mark.parametrize("kept", [None, ""])
def test_a_write_without_a_token_says_so_and_asks_nothing(tmp_path, kept):
    path = tmp_path / "token"
    if kept is not None:
        path.write_text(kept)
    without = {"token": "", "token_file": None if kept is None else path}
    with serving(Server(204, body=b"")) as server:
        with closing(Influx(access_to(server.url, **without))) as influx:
            outcome = influx.write("traffic/raw", [LINE])
        assert server.asked == []
    assert isinstance(outcome, Retry)
    assert "INFLUXDB_TOKEN" in outcome.reason
    assert "is empty" in outcome.reason


@pytest.mark.parametrize(
    ("header", "seconds"), [("60", 60.0), ("0", 0.0), ("Tue, 24 Nov 2099 12:00:30 GMT", 900.0)]
)
def test_a_busy_influxdb_says_when_to_come_again(header, seconds):
    server = Server(429, headers=[("Retry-After", header)])
    with serving(server), closing(Influx(access_to(server.url))) as influx:
        outcome = influx.write("traffic/raw", [LINE])
    assert isinstance(outcome, Retry)
    assert outcome.after_seconds == seconds


def test_the_token_is_read_anew_after_the_connection_was_given_up(tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")
    with serving(Server(204, body=b"")) as server:
        influx = Influx(access_to(server.url, token="", token_file=path))
        influx.write("traffic/raw", [LINE])
        path.write_text("second\n")
        influx.write("traffic/raw", [LINE])
        influx.close()
        influx.write("traffic/raw", [LINE])
        influx.close()
    tokens = [headers["authorization"] for _, _, headers in server.asked]
    assert tokens == ["Token first", "Token first", "Token second"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"",
        b'{"buckets": [{"name": 5}], "orgs": {}}',
        b'{"buckets": {"a": "b"}, "orgs": [{}]}',
    ],
)
def test_an_answer_that_is_none_of_influxdbs_is_refused_with_the_address(body):
    with serving(Server(200, body=body)) as server:
        buckets = Buckets(access_to(server.url))
        for ask in (buckets.current_seconds, buckets.org_id, buckets.map_default):
            with pytest.raises(
                InfluxRefusedError, match=f"{server.url}.*does not answer as InfluxDB does"
            ):
                ask()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InfluxRefusedError),
        (401, InfluxRefusedError),
        (429, InfluxUnavailableError),
        (503, InfluxUnavailableError),
    ],
)
def test_an_answer_that_is_no_success_says_whether_to_try_again(status, expected):
    with serving(Server(status, body=b'{"message":\n"not now"}')) as server:
        access = access_to(server.url)
        with pytest.raises(expected, match=f"{status} .*not now"):
            Buckets(access).current_seconds()
        with closing(Influx(access)) as influx, pytest.raises(expected, match=f"{status}"):
            influx.delete_before("traffic/raw", datetime(2026, 1, 1, tzinfo=UTC))


def test_another_program_in_place_of_a_victoriametrics_is_said_to_be_one():
    with serving(Server(200, body=b"process_cpu_seconds_total 5")) as server:
        access = access_to(server.url, token="", kind=TargetKind.VICTORIAMETRICS)
        with pytest.raises(InfluxRefusedError, match=f"{server.url}.*INFLUXDB_KIND"):
            VictoriaStorage(access, raw_seconds=86_400).check()
    ((_, path, headers),) = server.asked
    assert path == "/metrics"
    assert "authorization" not in {each.lower() for each in headers}, "it needs no token"


def test_an_influxdb_3_that_is_full_of_databases_waits_for_the_operator_and_drops_no_point():
    """As its sources answer (`influxdb3_server/src/http.rs` of 3.10); none was run."""
    body = b'{"error":"Adding a new database would exceed limit of 5 databases","data":null}'
    with serving(Server(422, body=body)) as server:
        access = access_to(server.url, kind=TargetKind.INFLUXDB3)
        with closing(Influx(access)) as influx:
            outcome = influx.write("traffic/raw", [LINE])
            with pytest.raises(InfluxRefusedError, match="retention of its databases"):
                influx.delete_before("traffic/raw", datetime(2026, 1, 1, tzinfo=UTC))
        (asked,) = server.asked
    assert isinstance(outcome, Halt)
    assert "drop some" in outcome.reason
    assert asked[1] == "/api/v2/write?org=vpn&bucket=traffic%2Fraw&precision=ns"


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=influx"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return path, key


def test_a_private_authority_is_trusted_when_the_system_does_and_not_before(
    certificate, monkeypatch
):
    path, key = certificate
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    server = Server(204, body=b"")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that hangs up
    with serving(server):
        access = access_to(server.url.replace("http:", "https:"))
        with closing(Influx(access)) as influx:
            outcome = influx.write("traffic/raw", [LINE])
            assert isinstance(outcome, Retry)
            assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with closing(Influx(access)) as influx:
            assert influx.write("traffic/raw", [LINE]) == Stored()
