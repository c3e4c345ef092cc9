r"""What a stranger sees in a browser: who is over, who is next, which server, a reset, its event.

    uv run --with playwright python benchmarks/story.py --grafana http://127.0.0.1:3000 \
        --password admin --panel-user admin --panel-password admin [--pictures docs/pictures]

Walks through the dashboards of a running stack with a Chromium: reads the names on Overview, opens
the first who runs out next and the busiest server, resets the first user over the limit by the page
that its cell links to, and waits until the lists and the events say so. Takes pictures of each
station at three widths, dark and light. Exit code 1 with a reason if a station does not show what
the one before promised.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

WIDTHS = {1600: 1500, 1024: 1900, 400: 2600}
"""By width, a height at which what matters is on the picture."""
THEMES = ("dark", "light")
PATIENCE_SECONDS = 180.0
RANGE = "from=now-6h&to=now"


class StoryError(Exception):
    """A station that does not show what it has to."""


class Story:
    """One walk through the dashboards of one Grafana."""

    def __init__(self, browser: Any, grafana: str, *, user: str, password: str) -> None:
        self._browser, self._grafana = browser, grafana
        self.context = browser.new_context(viewport={"width": 1600, "height": 1500})
        self._credentials = {"user": user, "password": password}
        self._sign_in(self.context)
        self.page = self.context.new_page()

    def _sign_in(self, context: Any) -> None:
        answer = context.request.post(f"{self._grafana}/login", data=self._credentials)
        if not answer.ok:
            raise StoryError(f"Grafana refuses the login: {answer.status}")

    def open(self, path: str, *, page: Any = None, theme: str = "dark") -> None:
        """Open a dashboard and wait until no panel loads."""
        page = page or self.page
        page.goto(f"{self._grafana}{path}&{RANGE}&kiosk&theme={theme}", timeout=180_000)
        page.wait_for_selector("[class*=panel-container]", timeout=120_000)
        page.wait_for_timeout(2500)  # panels begin to load when they come into view
        loading = page.locator(".panel-loading, [aria-label='Panel loading bar']")
        until(lambda: loading.count() == 0, "panels that have loaded", page)

    def column(self, panel: str, *, place: int = 0) -> list[str]:
        """Return the texts of one column of a table."""
        found = self._rows(panel)
        return [each.locator("[role=cell]").nth(place).inner_text().strip() for each in found]

    def _rows(self, panel: str) -> list[Any]:
        section = self.page.locator(f"section[aria-label='{panel} panel']")
        return section.locator("[role=row]:has([role=cell])").all()

    def link(self, panel: str, *, row: int, text: str) -> str:
        """Return where a cell of a table leads."""
        cell = self._rows(panel)[row].locator("a", has_text=text)
        address = cell.first.get_attribute("href")
        if not address:
            raise StoryError(f"{panel} has no link {text!r} in row {row}")
        return address

    @contextmanager
    def sized(self, width: int) -> Iterator[Any]:
        """Yield a page of one width, signed in."""
        context = self._browser.new_context(viewport={"width": width, "height": WIDTHS[width]})
        self._sign_in(context)
        try:
            yield context.new_page()
        finally:
            context.close()

    def picture(self, path: str, name: str, folder: Path) -> None:
        """Take pictures of a dashboard at all widths, dark and light."""
        for width in WIDTHS:
            with self.sized(width) as page:
                for theme in THEMES:
                    self.open(path, page=page, theme=theme)
                    page.screenshot(path=folder / f"{name}-{width}-{theme}.png")


def until(is_so: Callable[[], bool], what: str, page: Any) -> None:
    """Wait until something is so; StoryError after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise StoryError(f"waited in vain for {what}")
        page.wait_for_timeout(500)


def tell(story: Story, *, panel_user: str, panel_password: str, pictures: Path | None) -> None:
    """Walk from the names on Overview to the event of a reset."""
    overview = "/d/traffic-overview?orgId=1"
    story.open(overview)
    over, nearest = story.column("Users over their limit"), story.column("Who runs out next")
    if not over or not nearest:
        raise StoryError(f"Overview names no user: over {over}, next {nearest}")
    say(f"over: {', '.join(over)}; next: {nearest[0]} in {first(story, 'Who runs out next', 1)}")
    servers = "/d/traffic-servers?orgId=1"
    story.open(servers)
    busiest = first(story, "Server Details", 0)
    say(f"busiest server: {busiest}")
    stations = {
        "grafana-overview": overview,
        "grafana-user": f"/d/traffic-user?var-user={quote(nearest[0])}",
        "grafana-servers": f"/d/traffic-servers?var-server={quote(busiest)}",
        "grafana-resellers": "/d/traffic-resellers?orgId=1",
        "grafana-operations": "/d/traffic-operations?orgId=1",
    }
    for name, path in stations.items() if pictures else ():
        story.picture(path, name, pictures or Path())
    story.open(overview)
    address = story.link("Users over their limit", row=0, text="Reset")
    reset_by_page(story, address, panel_user=panel_user, panel_password=panel_password)
    say(f"reset: {over[0]}, by {address}")

    def is_told() -> bool:
        story.open(overview)
        events = zip(
            story.column("Latest events", place=1),
            story.column("Latest events", place=2),
            strict=True,
        )
        return ("reset", over[0]) in set(events)

    until(is_told, f"the event of the reset of {over[0]}", story.page)

    def is_off_the_list() -> bool:
        story.open(overview)
        return over[0] not in story.column("Users over their limit")

    until(is_off_the_list, f"{over[0]} to leave the list", story.page)
    say(f"seen in the events, and {over[0]} is over no more")
    if pictures:
        story.picture(overview, "grafana-after-reset", pictures)


def first(story: Story, panel: str, place: int) -> str:
    """Return a cell of a table's first row."""
    found = story.column(panel, place=place)
    if not found:
        raise StoryError(f"{panel} is empty")
    return found[0]


def reset_by_page(story: Story, address: str, *, panel_user: str, panel_password: str) -> None:
    """Confirm a reset on the bridge's page."""
    page = story.context.new_page()
    page.goto(address)
    page.fill("input[name=username]", panel_user)
    page.fill("input[name=password]", panel_password)
    page.click("button")
    page.wait_for_load_state()
    if page.locator("form").count():
        raise StoryError(f"the page did not reset: {page.inner_text('body')}")
    page.close()


def say(what: str) -> None:
    """Print a step."""
    sys.stdout.write(f"{what}\n")


def main() -> int:
    """Tell the story; 1 if it does not come out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grafana", required=True, help="the address of a Grafana")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--panel-user", required=True, help="an admin of the panel, for the page")
    parser.add_argument("--panel-password", required=True)
    parser.add_argument("--pictures", type=Path, help="a folder for pictures; default: none")
    parser.add_argument("--chromium", help="the browser's path; default: Playwright's own")
    given = parser.parse_args()
    # Not among the project's packages: only this script needs a browser.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        story = Story(browser, given.grafana, user=given.user, password=given.password)
        try:
            tell(
                story,
                panel_user=given.panel_user,
                panel_password=given.panel_password,
                pictures=given.pictures,
            )
        except StoryError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
