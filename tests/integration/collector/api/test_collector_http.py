"""The collector over HTTP: what is taken from whom, what is answered, what is stored."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from standardwebhooks.webhooks import Webhook

from collector.errors import LedgerError
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import DAY_MILLIS
from collector.reports.reporters import hash_key, signing_secret
from tests.support.collector.collectors import (
    ADMIN_KEY,
    ALICE_TOKEN,
    AS_ADMIN,
    AS_OTHER,
    AS_REPORTER,
    BOB_TOKEN,
    KEY,
    CollectorWorld,
    running,
    wire,
)
from tests.support.collector.ledgers import DAY, NOON_MILLIS, batch, beside, report

NOBODY: dict[str, str] = {}
WITHOUT_BOUNDS = {"COLLECTOR_REPORT_CEILING_BYTES": str(2**60)} | {
    f"COLLECTOR_{kind}_{span}_BYTES": str(2**62)
    for kind in ("USER", "KEY")
    for span in ("REQUEST", "HOUR", "DAY")
}
ORIGINAL = "/api/xpert/traffic-webhook"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
async def world(tmp_path):
    """In a folder of its own: tests have parameters called `path`, which are no ledger's."""
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        yield world


def iso(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, tz=UTC).isoformat()


class TestTaking:
    async def test_one_report_or_many_are_counted(self, world):
        one = await world.send(wire())
        many = await world.send([wire("bob"), wire("alice")])
        assert (one.status_code, one.json()) == (
            200,
            {"accepted": 1, "duplicates": 0, "ignored": 0, "rejected": []},
        )
        assert many.json()["accepted"] == 2
        assert await world.totals() == {"alice": 60, "bob": 30}

    async def test_good_reports_are_stored_beside_bad_ones_which_are_named(self, world):
        body = [wire(), wire(port=-1), wire(server=""), wire(bytes_uploaded=0, bytes_downloaded=0)]
        answer = await world.send([*body, wire(reported_at="yesterday"), wire("bob")])
        assert answer.status_code == 200
        data = answer.json()
        assert (data["accepted"], data["ignored"]) == (2, 1)
        assert [(each["index"], each["field"]) for each in data["rejected"]] == [
            (1, "port"),
            (2, "server"),
            (4, "reported_at"),
        ]
        assert await world.totals() == {"alice": 30, "bob": 30}

    async def test_when_no_report_is_valid_it_is_a_422_that_names_each(self, world):
        answer = await world.send([wire(port=70_000), wire(server="a\nb")])
        assert answer.status_code == 422
        assert [(each["index"], each["field"]) for each in answer.json()["errors"]] == [
            (0, "port"),
            (1, "server"),
        ]
        assert await world.totals() == {}

    async def test_all_that_is_wrong_with_a_report_is_named(self, world):
        bad = wire(port=-1, protocol="", bytes_uploaded="1")
        answer = await world.send([wire(), bad, wire(server="a\nb", bytes_downloaded=2**50)])
        assert [(each["index"], each["field"]) for each in answer.json()["rejected"]] == [
            *((1, "port"), (1, "protocol"), (1, "bytes_uploaded")),
            *((2, "server"), (2, "bytes_downloaded")),
        ]
        assert await world.totals() == {"alice": 30}

    async def test_a_misspelt_field_is_named_counted_and_logged_once(self, world, caplog):
        body = wire() | {"reportId": "1"}
        answers = [await world.send(each) for each in (body, [body, wire()])]
        expected = {"field": "reportId", "reports": 1, "did_you_mean": "report_id"}
        assert [each.json()["unknown_fields"] for each in answers] == [[expected]] * 2
        original = await world.send(body, path=ORIGINAL)
        assert original.json()["unknown_fields"] == [expected]
        assert caplog.text.count("unknown_fields sender='reporter:r'") == 1
        metrics = (await world.client.get("/metrics")).text
        assert 'collector_reports_unknown_fields_total{meant="report_id"} 3.0' in metrics
        assert await world.totals() == {"alice": 120}

    @pytest.mark.parametrize("path", ["/v1/reports", ORIGINAL])
    async def test_who_asks_for_it_has_a_misspelt_field_refused(self, world, path):
        body = wire() | {"timestamp": 1, "port": -1}
        answer = await world.send(body, path=f"{path}?strict=1")
        assert answer.status_code == 422
        assert [each["field"] for each in answer.json()["errors"]] == ["timestamp", "port"]
        assert "did you mean reported_at?" in answer.json()["errors"][0]["reason"]
        assert (await world.send(wire(), path=f"{path}?strict=true")).status_code == 200
        assert (await world.send(wire(), path=f"{path}?strict=maybe")).status_code == 422
        assert await world.totals() == {"alice": 30}

    async def test_a_byte_order_mark_is_no_part_of_a_body(self, world):
        body = b"\xef\xbb\xbf" + json.dumps(wire()).encode()
        for content, headers in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
            answer = await world.client.post(
                "/v1/reports", content=content, headers=AS_REPORTER | headers
            )
            assert answer.json()["accepted"] == 1

    async def test_reports_of_nothing_are_ignored_whoever_they_are_of(self, world):
        empty = {"bytes_uploaded": 0, "bytes_downloaded": 0}
        answer = await world.send([wire(**empty), wire(BOB_TOKEN, **empty)])
        assert answer.json() == {"accepted": 0, "duplicates": 0, "ignored": 2, "rejected": []}
        assert world.asked == []
        assert await world.totals() == {}

    @pytest.mark.parametrize(
        "name",
        [
            "o'brien",
            'q"q',
            "a=b,c d",
            "🦊",
            "юзер",
            "ܐ\u202eevil",
            "a/b",
            "%2F",
            "?x#y",
            "C:\\dir",
        ],
    )
    async def test_any_name_survives_the_way_in_and_out(self, world, name):
        assert (await world.send(wire(name, server=name, protocol=name))).status_code == 200
        assert await world.totals() == {name: 30}
        usage = await world.get(f"/v1/usage/{quote(name, safe='')}")
        assert usage["username"] == name
        assert [(s["server"], s["protocol"]) for s in usage["servers"]] == [(name, name)]
        path = f"/api/xpert/traffic-stats/server/{quote(name, safe='')}/443"
        assert (await world.get(path))["server"] == name

    @pytest.mark.parametrize("bad", ["a\nb", "a\x00", "a\x7f", "a\x85", "a\u2028", "\ud800"])
    @pytest.mark.parametrize("field", ["user_token", "server", "protocol", "report_id"])
    async def test_control_characters_are_refused_in_every_text(self, world, bad, field):
        answer = await world.send(json.dumps(wire(**{field: bad})).encode())
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field

    async def test_the_largest_array_is_taken_and_one_more_is_not(self, world):
        assert (await world.send([wire()] * 10_000)).json()["accepted"] == 10_000
        answer = await world.send([wire()] * 10_001)
        assert answer.status_code == 413
        assert await world.totals() == {"alice": 300_000}


class TestTheOriginalForm:
    async def test_it_answers_as_it_did(self, world):
        answer = await world.send(wire(), path=ORIGINAL)
        assert (answer.status_code, answer.json()["status"]) == (200, "success")
        assert await world.totals() == {"alice": 30}

    async def test_it_says_what_was_counted_before(self, world):
        body = wire(report_id="one")
        messages = [(await world.send(body, path=ORIGINAL)).json()["message"] for _ in range(2)]
        assert "lready" not in messages[0]
        assert "Already" in messages[1]
        assert await world.totals() == {"alice": 30}

    async def test_a_refusal_names_the_field(self, world):
        answer = await world.send(wire(bytes_uploaded=-1), path=ORIGINAL)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "bytes_uploaded"

    async def test_arrays_are_for_the_other_path(self, world):
        answer = await world.send([wire()], path=ORIGINAL)
        assert answer.status_code == 422
        assert "/v1/reports" in answer.json()["detail"]
        assert await world.totals() == {}


class TestIds:
    async def test_an_id_is_counted_once_by_either_path(self, world):
        await world.send(wire(report_id="x"))
        await world.send(wire(report_id="x"), path=ORIGINAL)
        answer = await world.send([wire(report_id="x"), wire(report_id="y")])
        assert (answer.json()["accepted"], answer.json()["duplicates"]) == (1, 1)
        assert await world.totals() == {"alice": 60}

    @pytest.mark.parametrize("body", [wire(), [], b"{"])
    async def test_each_answer_repeats_the_word_of_its_request(self, world, body):
        word = {"traffic-collector-request": "0123abc"}
        answer = await world.send(body, headers=AS_REPORTER | word)
        assert answer.headers["traffic-collector"] == "1 0123abc"
        answer = await world.send(body, headers=word | {"authorization": "Bearer wrong"})
        assert (answer.status_code, answer.headers["traffic-collector"]) == (401, "1 0123abc")

    @pytest.mark.parametrize("header", ["webhook-id", "Idempotency-Key"])
    async def test_a_header_names_a_request_and_each_report_of_an_array(self, world, header):
        headers = AS_REPORTER | {header: "h1"}
        for _ in range(2):
            await world.send(wire(), headers=headers)
            await world.send(
                [wire("bob"), wire("bob"), wire("bob", report_id="own")], headers=headers
            )
        assert await world.totals() == {"alice": 30, "bob": 90}

    async def test_the_reports_id_goes_before_the_headers_and_webhook_id_before_the_other(
        self, world
    ):
        headers = AS_REPORTER | {"webhook-id": "w", "Idempotency-Key": "i"}
        await world.send(wire(), headers=headers)
        again = [
            (await world.send(wire(), headers=AS_REPORTER | {"webhook-id": "w"})).json(),
            (await world.send(wire(), headers=AS_REPORTER | {"Idempotency-Key": "i"})).json(),
            (await world.send(wire(report_id="w"), headers=AS_REPORTER)).json(),
            (await world.send(wire(report_id="z"), headers=headers)).json(),
        ]
        assert [each["duplicates"] for each in again] == [1, 0, 1, 0]

    async def test_nobody_swallows_anothers_report(self, world):
        body = wire(report_id="same")
        await world.send(body)
        await world.send(body, headers=AS_OTHER)
        await world.send(wire(ALICE_TOKEN, report_id="same"), headers=NOBODY)
        await world.send(wire(BOB_TOKEN, report_id="same"), headers=NOBODY)
        assert await world.totals() == {"alice": 90, "bob": 30}

    async def test_the_same_id_with_other_numbers_is_a_duplicate_and_is_shouted_about(
        self, world, caplog
    ):
        await world.send(wire(report_id="x"))
        answer = await world.send(wire(report_id="x", bytes_uploaded=11))
        assert answer.json()["duplicates"] == 1
        assert await world.totals() == {"alice": 30}
        (record,) = caplog.records
        assert "conflicting_duplicates" in record.message
        metrics = (await world.client.get("/metrics")).text
        assert "collector_reports_conflicting_total 1.0" in metrics

    async def test_an_id_outlives_a_restart(self, path):
        for _ in range(2):
            async with running(CollectorWorld(path=path)) as world:
                await world.send(wire(report_id="x"))
                assert await world.totals() == {"alice": 30}

    async def test_cleaning_up_never_forgets_an_id_that_can_still_come(self, world):
        body = wire(report_id="x", reported_at=iso(NOON_MILLIS + 4 * 60_000))
        await world.send(body)
        world.now_millis += 7 * DAY_MILLIS + 60_000
        await world.client.post("/v1/maintenance/cleanup", params={"days": 1}, headers=AS_ADMIN)
        assert (await world.send(body)).json()["duplicates"] == 1
        assert await world.totals() == {"alice": 30}

    async def test_a_clock_that_jumps_ahead_forgets_no_id(self, world):
        await world.send(wire(report_id="x"))
        world.now_millis += 8 * DAY_MILLIS
        ingest = world.app.state.collector.ingest
        for _ in range(2):
            await ingest.run(lambda _: ingest._purge.run())
        await world.client.post("/v1/maintenance/cleanup", params={"days": 1}, headers=AS_ADMIN)
        world.now_millis -= 8 * DAY_MILLIS
        assert (await world.send(wire(report_id="x"))).json()["duplicates"] == 1
        assert await world.totals() == {"alice": 30}

    async def test_a_report_dated_ahead_is_counted_when_it_arrives(self, world):
        for days, ahead in enumerate((3_600_000, 365 * DAY_MILLIS)):
            answer = await world.send(wire(reported_at=iso(world.now_millis + ahead)))
            assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
            page = await world.get("/v1/usage/alice", days=1)
            assert page["servers"][0]["upload_bytes"] == 10 * (days + 1)
        metrics = (await world.client.get("/metrics")).text
        assert "collector_reports_ahead_total 2.0" in metrics


class TestWho:
    @pytest.mark.parametrize("route", ["/v1/reports", ORIGINAL])
    @pytest.mark.parametrize(
        "headers",
        [
            NOBODY,
            {"authorization": "Bearer rk_wrong"},
            {"authorization": f"Basic {KEY}"},
            AS_ADMIN,
            {"authorization": f"Bearer {KEY}x"},
        ],
    )
    async def test_strangers_are_turned_away_and_nothing_is_stored(self, world, route, headers):
        answer = await world.send(wire(), path=route, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert await world.totals() == {}

    async def test_keys_made_and_revoked_beside_the_process_count_within_a_second(
        self, world, path, monkeypatch
    ):
        seconds = [1000.0]
        monkeypatch.setattr(world, "monotonic_seconds", lambda: seconds[0])
        key = beside(path).add_reporter("agent", now_millis=0)
        seconds[0] += 1
        as_agent = {"authorization": f"Bearer {key}"}
        assert (await world.send(wire(), headers=as_agent)).status_code == 200
        beside(path).revoke_reporter("agent", now_millis=1)
        seconds[0] += 1
        assert (await world.send(wire(), headers=as_agent)).status_code == 401

    def signed(self, body: bytes, *, key: str = KEY, message_id: str = "m1") -> dict[str, str]:
        at = datetime.fromtimestamp(NOON_MILLIS / 1000, tz=UTC)
        signature = Webhook(signing_secret(hash_key(key))).sign(message_id, at, body.decode())
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(NOON_MILLIS // 1000),
            "webhook-signature": signature,
        }

    async def test_a_signature_is_as_good_as_the_key_and_of_the_same_reporter(self, world):
        body = json.dumps(wire(report_id="x")).encode()
        path = "/v1/reports?reporter=r"
        assert (await world.send(body, path=path, headers=self.signed(body))).status_code == 200
        assert (await world.send(body)).json()["duplicates"] == 1

    async def test_a_signature_of_a_key_that_was_replaced_fits_until_its_grace_is_over(
        self, world, path, monkeypatch
    ):
        seconds = [1000.0]
        monkeypatch.setattr(world, "monotonic_seconds", lambda: seconds[0])
        old = beside(path).add_reporter("agent", now_millis=0)
        grace = {"now_millis": NOON_MILLIS, "grace_millis": 5}
        keys = [old, beside(path).rotate_reporter("agent", **grace)]
        seconds[0] += 1
        body, where = json.dumps(wire()).encode(), "/v1/reports?reporter=agent"
        for number, key in enumerate(keys):
            headers = self.signed(body, key=key, message_id=f"m{number}")
            assert (await world.send(body, path=where, headers=headers)).status_code == 200
        beside(path).rotate_reporter("agent", now_millis=NOON_MILLIS, grace_millis=0)
        seconds[0] += 1
        for key in keys:
            answer = await world.send(body, path=where, headers=self.signed(body, key=key))
            assert answer.status_code == 401

    async def test_a_signed_request_sent_again_is_counted_once_by_its_webhook_id(self, world):
        body = json.dumps(wire()).encode()
        for _ in range(2):
            await world.send(body, path="/v1/reports?reporter=r", headers=self.signed(body))
        assert await world.totals() == {"alice": 30}

    @pytest.mark.parametrize(
        ("path", "key", "late_millis"),
        [
            ("/v1/reports", KEY, 0),
            ("/v1/reports?reporter=nobody", KEY, 0),
            ("/v1/reports?reporter=other", KEY, 0),
            ("/v1/reports?reporter=r", "another key", 0),
            ("/v1/reports?reporter=r", KEY, 301_000),
        ],
    )
    async def test_a_signature_that_does_not_fit_is_refused(self, world, path, key, late_millis):
        body = json.dumps(wire()).encode()
        world.now_millis += late_millis
        assert (
            await world.send(body, path=path, headers=self.signed(body, key=key))
        ).status_code == 401
        assert (
            await world.send(b"[]", path=path, headers=self.signed(body, key=key))
        ).status_code == 401

    async def test_a_user_reports_for_itself_by_its_token_or_url(self, world):
        for token in (ALICE_TOKEN, f"https://panel.example.com/sub/{ALICE_TOKEN}"):
            assert (await world.send(wire(token), headers=NOBODY)).status_code == 200
        assert await world.totals() == {"alice": 60}
        assert world.asked == [f"/sub/{ALICE_TOKEN}/info"]

    async def test_a_user_reports_for_nobody_else(self, world):
        for body in ([wire(ALICE_TOKEN), wire("bob")], [wire(ALICE_TOKEN), wire(BOB_TOKEN)]):
            assert (await world.send(body, headers=NOBODY)).status_code == 401
        assert await world.totals() == {}

    async def test_a_token_the_panel_does_not_know_is_a_stranger(self, world):
        del world.users[ALICE_TOKEN]
        assert (await world.send(wire(ALICE_TOKEN), headers=NOBODY)).status_code == 401

    async def test_while_the_panel_is_down_known_users_go_on_and_others_come_again(self, world):
        await world.send(wire(ALICE_TOKEN), headers=NOBODY)
        world.is_panel_down = True
        assert (await world.send(wire(ALICE_TOKEN), headers=NOBODY)).status_code == 200
        answer = await world.send(wire(BOB_TOKEN), headers=NOBODY)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        by_key = await world.send([wire("bob"), wire(BOB_TOKEN)])
        assert by_key.status_code == 503
        assert await world.totals() == {"alice": 60}

    async def test_a_reporter_may_send_tokens_and_one_unknown_one_costs_only_itself(self, world):
        unknown = ALICE_TOKEN[:-1] + "Q"
        body = [wire(ALICE_TOKEN), wire(unknown), wire("https://panel.example.com/x"), wire("bob")]
        data = (await world.send(body)).json()
        assert data["accepted"] == 2
        assert [(each["index"], each["field"]) for each in data["rejected"]] == [
            (1, "user_token"),
            (2, "user_token"),
        ]
        assert await world.totals() == {"alice": 30, "bob": 30}

    async def test_without_a_panel_tokens_are_refused_with_the_reason(self, path):
        async with running(CollectorWorld(path=path, environment={"MARZBAN_URL": ""})) as world:
            own = await world.send(wire(ALICE_TOKEN), headers=NOBODY)
            by_key = await world.send(wire(ALICE_TOKEN))
            assert (own.status_code, by_key.status_code) == (401, 422)
            assert "MARZBAN_URL" in own.text
            assert "MARZBAN_URL" in by_key.text
            assert await world.totals() == {}

    async def test_secrets_are_in_no_answer_no_log_and_no_metric(self, world, caplog):
        caplog.set_level("DEBUG", logger="collector")
        answers = [
            await world.send(wire(ALICE_TOKEN, report_id="x", bytes_uploaded=up))
            for up in (1, 2, -1, 10**18)
        ]
        answers.append(await world.send(wire(ALICE_TOKEN[:-1] + "Q"), headers=NOBODY))
        answers.append(await world.send(wire(), headers={"authorization": "Bearer rk_hunter2"}))
        answers.append(await world.client.get("/metrics"))
        answers.append(await world.client.get("/openapi.json"))
        everything = caplog.text + "".join(each.text for each in answers)
        for secret in (KEY, ADMIN_KEY, ALICE_TOKEN, ALICE_TOKEN[:-1], "hunter2"):
            assert secret not in everything
        assert "alice" not in answers[-2].text


class TestBounds:
    async def test_gzip_is_taken(self, world):
        body = gzip.compress(json.dumps([wire()] * 1000).encode())
        answer = await world.send(body, headers=AS_REPORTER | {"content-encoding": "gzip"})
        assert answer.json()["accepted"] == 1000

    async def test_a_gzip_bomb_is_refused_before_it_unfolds(self, world):
        bomb = gzip.compress(b" " * 200_000_000, compresslevel=9)
        assert len(bomb) < 8 * 2**20
        answer = await world.send(bomb, headers=AS_REPORTER | {"content-encoding": "gzip"})
        assert answer.status_code == 413

    async def test_a_body_is_bounded_with_or_without_a_declared_length(self, path):
        environment = {"COLLECTOR_MAX_BODY_BYTES": "2000"}
        chunks_sent = []

        async def endless():
            while True:
                chunks_sent.append(1)
                yield b" " * 1000

        async with running(CollectorWorld(path=path, environment=environment)) as world:
            assert (await world.send(b" " * 2001)).status_code == 413
            answer = await world.client.post("/v1/reports", content=endless(), headers=AS_REPORTER)
            assert answer.status_code == 413
            assert len(chunks_sent) < 10
            assert (await world.send(wire())).status_code == 200

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            (b"", {}, 400),
            (b"{", {}, 400),
            (b"null", {}, 400),
            (b'{"a": NaN}', {}, 400),
            (b"[]", {}, 422),
            (b"{}", {}, 422),
            (b"[1]", {}, 422),
            (b"{}", {"content-encoding": "gzip"}, 400),
            (b"{}", {"content-encoding": "br"}, 415),
            (b"{}", {"content-encoding": "gzip, gzip"}, 415),
            (b"{}", {"idempotency-key": "x" * 256}, 422),
            (b"{}", {"authorization": "Bearer no"}, 401),
        ],
    )
    async def test_every_bad_body_has_its_status_and_a_problem(self, world, body, headers, status):
        answer = await world.send(body, headers=AS_REPORTER | headers)
        assert answer.status_code == status
        assert set(answer.json()) == {"type", "title", "status", "detail", "errors"}
        assert answer.json()["detail"]

    async def test_a_key_is_slowed_down_when_it_comes_too_often(self, path):
        environment = {"COLLECTOR_KEY_REQUESTS_PER_SECOND": "1"}
        async with running(CollectorWorld(path=path, environment=environment)) as world:
            seconds = [1000.0]
            world.monotonic_seconds = lambda: seconds[0]
            statuses = [(await world.send(wire())).status_code for _ in range(3)]
            limited = await world.send(wire())
            other = await world.send(wire(), headers=AS_OTHER)
            seconds[0] += 1
            later = await world.send(wire())
        assert statuses == [200, 200, 429]
        assert int(limited.headers["retry-after"]) >= 1
        assert (other.status_code, later.status_code) == (200, 200)

    async def test_a_user_is_slowed_down_when_it_comes_too_often(self, path):
        environment = {"COLLECTOR_USER_REQUESTS_PER_SECOND": "0.2"}
        async with running(CollectorWorld(path=path, environment=environment)) as world:
            world.monotonic_seconds = lambda: 1000.0
            statuses = [
                (await world.send(wire(token), headers=NOBODY)).status_code
                for token in (ALICE_TOKEN, ALICE_TOKEN, BOB_TOKEN)
            ]
        assert statuses == [200, 429, 200]

    async def test_a_full_queue_and_a_full_disk_say_so_and_store_nothing(self, world):
        collector = world.app.state.collector
        ledger = collector.ingest._ledger
        pages = await collector.ingest.run(
            lambda ledger: ledger._db.execute("PRAGMA page_count").fetchone()[0]
        )
        await collector.ingest.run(
            lambda ledger: ledger._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        )
        many = [wire(f"user{number}", server="s" * 200) for number in range(500)]
        answer = await world.send(many)
        assert answer.status_code == 507
        ready = await world.client.get("/readyz")
        assert ready.status_code == 503
        assert "disk" in ready.json()["reasons"][0]
        await collector.ingest.run(
            lambda ledger: ledger._db.execute("PRAGMA max_page_count = 1000000").fetchone()
        )
        assert (await world.send(many)).json()["accepted"] == 500
        assert (await world.client.get("/readyz")).status_code == 200
        assert ledger.path.exists()


class TestFeed:
    async def test_pages_follow_each_other_without_gaps(self, world):
        await world.send([wire(f"user{number}") for number in range(25)])
        after, seen = 0, []
        while True:
            page = await world.get("/v1/usage/changes", after=after, limit=10)
            if not page["changes"]:
                break
            seen += [each["username"] for each in page["changes"]]
            after = page["next"]
        assert seen == [f"user{number}" for number in range(25)]
        assert page["head"] == page["next"] == after == 25

    async def test_a_waiting_reader_is_woken_by_the_next_change(self, world):
        reader = asyncio.create_task(world.get("/v1/usage/changes", after=0, wait=30))
        signal = world.app.state.collector.ingest.commits
        while not signal._event._waiters:
            await asyncio.sleep(0.001)
        await world.send(wire(bytes_uploaded=0, bytes_downloaded=0))
        assert not reader.done()
        await world.send(wire())
        async with asyncio.timeout(25):
            page = await reader
        assert [each["username"] for each in page["changes"]] == ["alice"]

    async def test_a_commit_of_duplicates_wakes_nobody_for_nothing(self, world):
        await world.send(wire(report_id="x"))
        reader = asyncio.create_task(world.get("/v1/usage/changes", after=1, wait=30))
        signal = world.app.state.collector.ingest.commits
        while not signal._event._waiters:
            await asyncio.sleep(0.001)
        await world.send(wire(report_id="x"))
        while not signal._event._waiters:
            await asyncio.sleep(0.001)
        await world.send(wire("bob"))
        async with asyncio.timeout(25):
            page = await reader
        assert [each["username"] for each in page["changes"]] == ["bob"]

    async def test_a_reader_ahead_of_the_ledger_is_answered_at_once(self, world):
        await world.send(wire())
        async with asyncio.timeout(25):
            page = await world.get("/v1/usage/changes", after=99, wait=30)
        assert (page["head"], page["next"], page["changes"]) == (1, 99, [])

    async def test_an_empty_wait_ends_in_time(self, world):
        async with asyncio.timeout(25):
            page = await world.get("/v1/usage/changes", after=0, wait=0.05)
        assert page["changes"] == []

    async def test_a_shutdown_sends_waiting_readers_home(self, path):
        async with running(CollectorWorld(path=path)) as world:
            readers = [
                asyncio.create_task(world.get("/v1/usage/changes", wait=30)) for _ in range(20)
            ]
            commits = world.app.state.collector.ingest.commits
            while len(commits._event._waiters) < 20:
                await asyncio.sleep(0.001)
            commits.close()
            async with asyncio.timeout(25):
                pages = await asyncio.gather(*readers)
        assert [page["changes"] for page in pages] == [[]] * 20

    async def test_amounts_come_out_to_the_byte(self, path):
        async with running(CollectorWorld(path=path, environment=WITHOUT_BOUNDS)) as world:
            await world.send(wire(bytes_uploaded=2**60 - 1, bytes_downloaded=2**53 + 1))
            (change,) = (await world.get("/v1/usage/changes"))["changes"]
        assert (change["upload_bytes"], change["download_bytes"]) == (2**60 - 1, 2**53 + 1)


class TestFullTotals:
    """A user's total ends at 2^62; nobody else's report has anything to do with it."""

    @pytest.fixture
    async def world(self, path):
        with closing(SqliteLedger(path)) as ledger:
            full = [report(name, up=2**61, down=2**61) for name in ("alice", "bob")]
            ledger.record([batch(*full)], received_at_millis=NOON_MILLIS - DAY_MILLIS)
        async with running(CollectorWorld(path=path)) as world:
            yield world

    async def test_a_report_beyond_it_is_507_and_every_other_user_s_is_stored(self, world):
        over = await world.send(wire())
        assert (over.status_code, over.json()["errors"]) == (507, [])
        assert "nothing was stored" in over.json()["detail"]
        assert (await world.send(wire("carol"))).status_code == 200
        assert await world.totals() == {"alice": 2**62, "bob": 2**62, "carol": 30}
        everything = await world.get("/v1/usage")
        assert everything["upload_bytes"] + everything["download_bytes"] == 2**63 + 30

    async def test_beside_others_reports_it_is_named_and_theirs_are_stored(self, world):
        body = [wire("carol", bytes_uploaded=-1), wire(), wire("carol"), wire("bob")]
        answer = await world.send(body)
        assert answer.status_code == 200
        assert answer.json()["accepted"] == 1
        found = [(each["index"], each["field"]) for each in answer.json()["rejected"]]
        assert found == [(0, "bytes_uploaded"), (1, "user_token"), (3, "user_token")]

    async def test_it_is_logged_once_counted_and_a_warning(self, world, caplog):
        for _ in range(3):
            await world.send(wire())
        lines = [line for line in caplog.messages if "user_total_full" in line]
        assert len(lines) == 1
        assert "'alice'" in lines[0]
        ready = await world.client.get("/readyz")
        assert ready.status_code == 200
        assert "the totals of 1 users are full" in ready.json()["warnings"][0]
        metrics = (await world.client.get("/metrics")).text
        assert "collector_reports_beyond_capacity_total 3.0" in metrics


ADMIN_PATHS = [
    ("GET", "/v1/usage/changes"),
    ("GET", "/v1/usage/alice"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/servers"),
    ("GET", "/v1/database"),
    ("GET", "/v1/spikes"),
    ("POST", "/v1/maintenance/cleanup?days=1"),
    ("GET", "/api/xpert/traffic-stats/alice"),
    ("GET", "/api/xpert/traffic-stats/global"),
    ("GET", "/api/xpert/traffic-stats/server/de-1/443"),
    ("GET", "/api/xpert/traffic-stats/database/info"),
    ("POST", "/api/xpert/traffic-stats/cleanup?days=1"),
    ("GET", "/api/xpert/marzban-traffic-stats"),
    ("GET", "/api/xpert/xpert-traffic-stats"),
]


@pytest.mark.parametrize(("method", "url"), ADMIN_PATHS)
class TestAdminOnly:
    async def test_the_admin_key_opens_and_no_other_does(self, world, method, url):
        for headers in (
            NOBODY,
            AS_REPORTER,
            {"authorization": "Bearer "},
            {"authorization": ADMIN_KEY},
        ):
            answer = await world.client.request(method, url, headers=headers)
            assert answer.status_code == 401
        assert (await world.client.request(method, url, headers=AS_ADMIN)).status_code == 200

    async def test_a_collector_without_one_says_so(self, path, method, url):
        environment = {"COLLECTOR_ADMIN_KEY": ""}
        async with running(CollectorWorld(path=path, environment=environment)) as world:
            answer = await world.client.request(method, url, headers=AS_ADMIN)
        assert answer.status_code == 403
        assert "COLLECTOR_ADMIN_KEY" in answer.json()["detail"]


class TestStatistics:
    @pytest.fixture
    async def world(self, tmp_path):
        async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
            gib = 2**30
            await world.send(
                [
                    wire(bytes_uploaded=gib, bytes_downloaded=gib // 2, connections=3),
                    wire(server="nl-1", bytes_uploaded=0, bytes_downloaded=4 * gib),
                    wire("bob", bytes_uploaded=gib, bytes_downloaded=0),
                    wire(
                        bytes_uploaded=gib,
                        bytes_downloaded=0,
                        reported_at=iso(NOON_MILLIS - 2 * DAY_MILLIS),
                    ),
                ]
            )
            yield world

    async def test_a_users_traffic_by_server(self, world):
        usage = await world.get("/v1/usage/alice")
        assert usage["days"] is None
        assert (usage["upload_bytes"], usage["download_bytes"]) == (2 * 2**30, 9 * 2**29)
        assert [(s["server"], s["connections"]) for s in usage["servers"]] == [
            ("nl-1", 1),
            ("de-1", 4),
        ]
        assert (
            datetime.fromisoformat(usage["servers"][0]["last_used_at"]).timestamp() * 1000
            == NOON_MILLIS
        )
        today = await world.get("/v1/usage/alice", days=1)
        assert today["upload_bytes"] == 2**30

    async def test_a_user_never_reported_has_none(self, world):
        usage = await world.get("/v1/usage/nobody")
        assert (usage["upload_bytes"], usage["servers"]) == (0, [])

    async def test_the_whole_by_sum_by_server_and_as_a_database(self, world):
        everything = await world.get("/v1/usage")
        assert (everything["users"], everything["servers"], everything["reports"]) == (2, 2, 4)
        servers = await world.get("/v1/servers")
        assert [(s["server"], s["users"]) for s in servers] == [("nl-1", 1), ("de-1", 2)]
        database = await world.get("/v1/database")
        assert (database["records"], database["unique_users"]) == (4, 2)
        assert database["location"] == "ledger.sqlite3"

    async def test_the_original_user_page(self, world):
        page = await world.get("/api/xpert/traffic-stats/alice", days=30)
        last_used = page["servers"][0].pop("last_used")
        assert datetime.fromisoformat(last_used).timestamp() * 1000 == NOON_MILLIS
        assert page["servers"][0] == {
            "server": "nl-1", "port": 443, "protocol": "vless", "upload_gb": 0.0,
            "download_gb": 4.0, "total_gb": 4.0, "connections": 1,
        }  # fmt: skip
        assert (page["user_token"], page["total_gb_used"], page["period_days"]) == (
            "alice",
            6.5,
            30,
        )

    async def test_a_user_sees_its_own_page_by_its_token_and_nobody_elses(self, world):
        path = "/api/xpert/traffic-stats/"
        own = await world.client.get(path + BOB_TOKEN)
        assert own.json()["total_gb_used"] == 1.0
        assert (await world.client.get(path + "alice")).status_code == 401
        assert (await world.client.get(path + BOB_TOKEN[:-1] + "Q")).status_code == 401

    async def test_the_original_global_page_and_its_envelope(self, world):
        page = await world.get("/api/xpert/traffic-stats/global", days=30)
        top = page.pop("top_servers")
        assert page == {
            "total_users": 2, "total_servers": 2, "total_gb_used": 7.5, "total_connections": 6,
            "total_protocols": 1, "period_days": 30,
        }  # fmt: skip
        assert top[0] == {"server": "nl-1", "port": 443, "protocol": "vless", "total_gb": 4.0}
        for path in ("/api/xpert/marzban-traffic-stats", "/api/xpert/xpert-traffic-stats"):
            envelope = (await world.get(path, days=30))["users_traffic"]
            assert envelope == page | {
                "top_servers": top, "external_servers": True, "integration_type": "xpert",
                "data_source": "traffic_monitoring_system",
            }  # fmt: skip

    async def test_the_original_server_page(self, world):
        page = await world.get("/api/xpert/traffic-stats/server/de-1/443", days=30)
        assert page["daily_stats"] == [
            {"date": iso((DAY - 2) * DAY_MILLIS)[:10], "total_gb": 1.0, "unique_users": 1},
            {"date": iso(DAY * DAY_MILLIS)[:10], "total_gb": 2.5, "unique_users": 2},
        ]
        assert (page["unique_users"], page["total_gb_used"], page["total_connections"]) == (
            2,
            3.5,
            5,
        )
        assert page["avg_gb_per_connection"] == 0.7

    async def test_cleaning_up_removes_days_and_never_totals(self, world):
        before = await world.totals()
        answer = await world.client.post(
            "/v1/maintenance/cleanup", params={"days": 1}, headers=AS_ADMIN
        )
        assert answer.json() == {
            "days": 1,
            "removed_reports": 0,
            "removed_day_rows": 1,
            "removed_series": 0,
            "series_data": "none",
        }
        assert await world.totals() == before
        await world.let_days_pass(30)
        answer = await world.client.post(
            "/api/xpert/traffic-stats/cleanup", params={"days": 20}, headers=AS_ADMIN
        )
        assert answer.json() == {"status": "success", "deleted_rows": 7, "cleanup_days": 20}
        assert await world.totals() == before
        assert (await world.get("/v1/usage"))["reports"] == 4


async def test_what_is_not_there_is_a_problem_like_any_other(world):
    for method, url, status in (("GET", "/nowhere", 404), ("DELETE", "/v1/reports", 405)):
        answer = await world.client.request(method, url)
        assert (answer.status_code, set(answer.json())) == (
            status,
            {"type", "title", "status", "detail", "errors"},
        )


class TestHealth:
    async def test_a_collector_that_can_store_is_ready(self, world):
        assert (await world.client.get("/healthz")).json()["status"] == "ok"
        assert (await world.client.get("/readyz")).json() == {
            "status": "ok",
            "reasons": [],
            "warnings": [],
        }

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
    async def test_a_monitor_may_ask_for_the_head_alone(self, world, path):
        answer = await world.client.head(path)
        assert answer.status_code == (await world.client.get(path)).status_code == 200

    async def test_too_little_free_disk_is_not_ready(self, path):
        environment = {"COLLECTOR_MIN_FREE_DISK_BYTES": str(2**60)}
        async with running(CollectorWorld(path=path, environment=environment)) as world:
            answer = await world.client.get("/readyz")
        assert answer.status_code == 503
        assert "COLLECTOR_MIN_FREE_DISK_BYTES" in answer.json()["reasons"][0]

    async def test_a_ledger_removed_under_the_process_is_not_ready(self, world):
        world.path.unlink()
        answer = await world.client.get("/readyz")
        assert answer.status_code == 503
        assert "was removed" in answer.json()["reasons"][0]

    async def test_another_file_in_the_ledgers_place_is_not_ready(self, world):
        copy = world.path.with_name("copy")
        copy.write_bytes(world.path.read_bytes())
        copy.replace(world.path)
        answer = await world.client.get("/readyz")
        assert answer.status_code == 503
        assert "replaced" in answer.json()["reasons"][0]

    async def test_numbers_are_exposed_and_fresh_for_each_collector(self, world):
        await world.send([wire(), wire(port=-1), wire(bytes_uploaded=0, bytes_downloaded=0)])
        text = (await world.client.get("/metrics")).text
        for line in (
            "collector_reports_accepted_total 1.0",
            "collector_reports_ignored_total 1.0",
            'collector_reports_refused_total{field="port"} 1.0',
            'collector_report_requests_total{status="200"} 1.0',
            "collector_queued_reports 0.0",
        ):
            assert line in text

    async def test_a_ledger_in_use_stops_the_start(self, path):
        with closing(SqliteLedger(path)), pytest.raises(LedgerError, match="in use"):
            async with running(CollectorWorld(path=path)):
                pass
