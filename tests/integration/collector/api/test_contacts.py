"""Who reports, who only makes contact, and who is refused: seen by API, command, metrics and log."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from collector.cli.main import main
from collector.contacts import store_contacts
from collector.reports.contacts import Reason
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_OTHER,
    BOB_TOKEN,
    KEY,
    CollectorWorld,
    running,
    wire,
)

IDLE = b'{"clientTraffics": [], "inboundTraffics": []}'
SECRET = "rk_a-key-that-is-misspelt"


@pytest.fixture
async def world(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        yield world


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def page_of(world):
    page = await world.get("/v1/reporters")
    return (
        {each["name"]: each for each in page["reporters"]},
        {(each["address"], each["reason"]): each["requests"] for each in page["refused"]},
    )


async def test_a_post_without_traffic_is_a_contact_and_no_report(world):
    answer = await world.client.post(f"/v1/sources/3x-ui/{KEY}", content=IDLE)
    assert answer.json()["accepted"] == 0
    reporters, refused = await page_of(world)
    assert reporters["r"]["last_contact_at"] is not None
    assert reporters["r"]["last_report_at"] is None
    assert reporters["other"]["last_contact_at"] is None
    assert refused == {}
    metrics = (await world.client.get("/metrics")).text
    assert 'collector_reporter_last_contact_timestamp_seconds{reporter="r"}' in metrics


async def test_reports_that_are_all_refused_are_a_contact(world):
    assert (await world.send(wire(port=-1), headers=AS_OTHER)).status_code == 422
    reporters, _ = await page_of(world)
    assert reporters["other"]["last_contact_at"] is not None
    assert reporters["other"]["last_report_at"] is None


async def test_who_is_refused_is_counted_by_address_and_reason_and_logged_once(world, caplog):
    for _ in range(3):
        await world.client.post(f"/v1/sources/3x-ui/{SECRET}", content=IDLE)
        await world.send(wire(), headers=bearer(SECRET))
        await world.send(wire(), headers={})
        await world.client.post(f"/v1/sources/3xui/{KEY}", content=IDLE)
    await world.send([wire(ALICE_TOKEN), wire(BOB_TOKEN)], headers={})
    await world.send(wire(ALICE_TOKEN[:-3] + "xyz"), headers={})
    await world.send(wire(), path="/v1/reports?reporter=r", headers={"webhook-signature": "v1,x"})
    _, refused = await page_of(world)
    address = "127.0.0.1"
    assert refused == {
        (address, Reason.UNKNOWN_KEY): 6,
        (address, Reason.NO_KEY): 3,
        (address, Reason.PATH): 3,
        (address, Reason.OTHER_USER): 1,
        (address, Reason.SUBSCRIPTION): 1,
        (address, Reason.SIGNATURE): 1,
    }
    lines = [each for each in caplog.messages if each.startswith("request_refused")]
    assert len(lines) == len(refused)
    assert f"request_refused address={address} reason='unknown key'" in caplog.text
    metrics = (await world.client.get("/metrics")).text
    assert 'collector_requests_refused_total{reason="unknown key"} 6.0' in metrics
    told = caplog.text + metrics + json.dumps(await world.get("/v1/reporters"))
    assert SECRET not in told
    assert KEY not in told


async def test_a_key_that_was_revoked_is_told_from_one_that_never_was(world, caplog):
    backend = world.app.state.collector.backend
    key = backend.add_reporter("de-1", now_millis=0)
    backend.revoke_reporter("de-1", now_millis=1)
    assert (await world.send(wire(), headers=bearer(key))).status_code == 401
    _, refused = await page_of(world)
    assert refused == {("127.0.0.1", Reason.REVOKED_KEY): 1}
    assert "reason='revoked or replaced key' once_of=de-1" in caplog.text


async def test_contacts_and_refusals_outlive_a_restart_and_the_command_lists_them(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "ledger.sqlite3"
    for requests in (1, 3):
        async with running(CollectorWorld(path=path)) as world:
            await world.client.post(f"/v1/sources/3x-ui/{KEY}", content=IDLE)
            await world.send(wire(), headers=bearer(SECRET))
            _, refused = await page_of(world)
            assert refused == {("127.0.0.1", Reason.UNKNOWN_KEY): requests}
            await world.send(wire(), headers=bearer(SECRET))
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{path}")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert main(["reporters", "list"]) == 0
    listed = capsys.readouterr().out
    assert "last contact" in listed
    (row,) = (line for line in listed.splitlines() if "127.0.0.1" in line)
    assert "unknown key" in row


async def test_the_admin_key_alone_reads_who_reports(world):
    assert (await world.client.get("/v1/reporters")).status_code == 401


async def test_a_page_waits_for_what_is_being_stored(world, monkeypatch):
    collector = world.app.state.collector
    may_store = threading.Event()
    note_contacts = collector.backend.note_contacts

    def note_late(*given, **options):
        assert may_store.wait(120)
        note_contacts(*given, **options)

    monkeypatch.setattr(collector.backend, "note_contacts", note_late)
    await world.send(wire(), headers=bearer(SECRET))
    storing = asyncio.create_task(store_contacts(collector))
    page = asyncio.create_task(page_of(world))
    while not collector.storing_contacts.locked():
        await asyncio.sleep(0)
    may_store.set()
    _, refused = await page
    await storing
    assert refused == {("127.0.0.1", Reason.UNKNOWN_KEY): 1}
