"""Links from dashboards to a user on the panel."""

from __future__ import annotations

from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.user_page import user_page


def test_pasarguard_is_searched_for_the_name():
    found = user_page("https://panel.example.com/", PanelKind.PASARGUARD, "a b&c/ü")
    assert found == "https://panel.example.com/dashboard/#/users?search=a%20b%26c%2F%C3%BC"


def test_marzban_has_one_page_for_all():
    found = user_page("https://panel.example.com", PanelKind.MARZBAN, "alice")
    assert found == "https://panel.example.com/dashboard/"
