"""`marzban-bridge panels`: what it shows, and what becomes of a panel that is forgotten."""

from __future__ import annotations

import contextlib

import pytest

from marzban_bridge.cli import main as cli
from marzban_bridge.cli import panels as panels_command
from marzban_bridge.errors import SettingsError
from marzban_bridge.opening import open_bridges
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PASSWORD
from tests.support.bridge.shared_stores import leading


def stop(world):
    world.run(world._stack.aclose())
    world._stack = contextlib.AsyncExitStack()


def forget(world, panel):
    """Stop the bridge, run the command, and start the bridge on the panels that are left."""
    stop(world)
    assert world.run(panels_command.forget(world.settings, panel)) == 0
    names, spans, settings = world._opened
    world.bridges = world.open(names, spans=spans, **settings)


async def start(world, settings):
    async with contextlib.AsyncExitStack() as stack:
        led = leading(settings.store, stack)
        opening = open_bridges(settings, panel_transport=world.transports, **led)
        return list((await stack.enter_async_context(opening)).by_name)


def test_the_address_of_a_removed_panel_is_free_once_the_panel_is_forgotten(opened, tmp_path):
    world = opened("two")
    world.create("two")
    world.ledger.report("two/alice", gib(3))
    world.look()
    world.restart(("default",))
    forget(world, "two")
    stop(world)
    settings = world.configure(("default", "two"), spans=False)
    path = tmp_path / "panels.toml"
    path.write_text(path.read_text().replace("[two]", "[zwei]"))
    assert world.run(start(world, settings)) == ["default", "zwei"]


def test_the_refusal_of_an_address_says_how_it_becomes_free(opened, tmp_path):
    world = opened("two")
    stop(world)
    path = tmp_path / "panels.toml"
    path.write_text(path.read_text().replace("[two]", "[zwei]"))
    with pytest.raises(SettingsError, match="marzban-bridge panels forget two"):
        world.run(start(world, world.settings))


def test_a_forgotten_panels_names_pass_to_the_next_panel_without_their_past(opened):
    world = opened("two", "three")
    for panel in ("two", "three"):
        world.create(panel, "bob")
    world.ledger.report("bob", gib(4))
    world.ledger.report("three/bob", gib(1))
    world.look(3)
    assert (world.external("two", "bob"), world.external("three", "bob")) == (gib(4), gib(1))
    world.restart(("default", "three"))
    forget(world, "two")
    world.ledger.report("bob", gib(2))
    world.look(3)
    assert world.external("three", "bob") == gib(3)
    assert world.shown("three", "bob") == ("active", 7)


def test_what_was_used_on_a_forgotten_panel_stays_used_of_a_shared_quota(opened):
    world = opened("two", spans=True)
    for panel in world.panels:
        world.create(panel)
    world.use("two", 2)
    world.ledger.report("two/alice", gib(3))
    world.ledger.report("alice", gib(1))
    world.look(3)
    assert world.shown("default") == ("active", 4)
    world.restart(("default",))
    world.look(2)
    assert world.shown("default") == ("active", 4)
    forget(world, "two")
    world.look(3)
    assert not world.account("default").is_held
    assert world.shown("default") == ("active", 4)


def test_a_panel_that_is_configured_or_unknown_is_not_forgotten(opened):
    world = opened("two")
    stop(world)
    with pytest.raises(SettingsError, match="panel two is configured: take its table out"):
        world.run(panels_command.forget(world.settings, "two"))
    with pytest.raises(SettingsError, match="the store has no panel three"):
        world.run(panels_command.forget(world.settings, "three"))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    path = tmp_path / "panels.toml"
    path.write_text(f'[two]\nurl = "http://two.test"\nusername = "root"\npassword = "{PASSWORD}"\n')
    for name, value in {
        "MARZBAN_URL": "http://default.test",
        "MARZBAN_USERNAME": "root",
        "MARZBAN_PASSWORD": PASSWORD,
        "BRIDGE_WEBHOOK_SECRET": "the-secret-of-the-first",
        "BRIDGE_PANELS_FILE": str(path),
        "BRIDGE_STORE": str(tmp_path / "bridge.sqlite3"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("environment")
class TestCommand:
    """The command line itself."""

    def test_it_lists_the_panels_and_no_secret(self, capsys):
        assert cli.main(["panels"]) == 0
        said = capsys.readouterr().out
        assert "http://two.test" in said
        assert "/panels/two/webhooks/marzban" in said
        assert "the-secret" not in said

    def test_it_prints_what_goes_into_a_panels_own_environment(self, capsys):
        assert cli.main(["panels", "webhook", "two"]) == 0
        said = capsys.readouterr().out
        assert "WEBHOOK_ADDRESS=http://<this machine>:8090/panels/two/webhooks/marzban" in said
        assert "the-secret-of-the-first" not in said
        assert cli.main(["panels", "webhook", "default"]) == 0
        assert "WEBHOOK_SECRET=the-secret-of-the-first" in capsys.readouterr().out
        assert cli.main(["panels", "webhook", "three"]) == 1

    def test_it_forgets_nothing_without_the_typed_words(self, monkeypatch, capsys):
        monkeypatch.setattr("builtins.input", lambda _prompt: "yes")
        assert cli.main(["panels", "forget", "old"]) == 1
        assert "Nothing was changed" in capsys.readouterr().out
        assert cli.main(["panels", "forget", "old", "--yes"]) == 1
        assert "the store has no panel old" in capsys.readouterr().err
