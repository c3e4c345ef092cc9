"""An admin at work during a soak: resets, new quotas, users deleted and made again.

Nothing is reported for a user while the admin works on it, so that the right outcome is known to
the byte: the new period begins at what was acknowledged until then.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from collector.errors import LedgerError
from collector.ledger.engines import backend_of
from marzban_bridge.errors import StoreError
from marzban_bridge.quota.account import FLOOR_BYTES, Account
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE
from marzban_bridge.store.store import Store
from tests.support.bridge.panels import FREE_ACCESS
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, PANEL_PASSWORD, Stack, until
from tests.support.soak.soak_load import Books

ROUNDING_BYTES = 2**14
SPIKE_BYTES = 200 * 2**30
SPIKE_REPORTER, SPIKE_KEY = "spike", "rk_the-key-that-was-stolen-in-the-soak"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """What is right for a user: the admin's quota, and where its period began."""

    quota_bytes: int
    baseline_bytes: int = 0
    is_disabled_by_admin: bool = False


class AdminAtWork(threading.Thread):
    """Does one thing after the other until told to stop, and knows what is right afterwards."""

    def __init__(
        self,
        stack: Stack,
        store: Path,
        meant: dict[str, Meant],
        books: Books,
        stop: threading.Event,
        *,
        kind: str,
        dice: random.Random,
        pause_seconds: float,
        taken_seconds: float,
    ) -> None:
        super().__init__(name="admin", daemon=True)
        self._stack = stack
        self._store = store
        self.meant = meant
        self._books = books
        self._stop_asked = stop
        self._free_access = FREE_ACCESS[kind]
        self._dice = dice
        self._pause_seconds = pause_seconds
        self._taken_seconds = taken_seconds
        self._client = httpx.Client(timeout=60, trust_env=False)
        self.done_counts: Counter[str] = Counter()
        self._at_work = threading.RLock()

    def paused(self) -> AbstractContextManager[object]:
        """Keep the admin from work; what it has begun comes to its end before."""
        return self._at_work

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(self._dice.expovariate(1 / self._pause_seconds)):
                names = [each for each in self.meant if self._is_workable(each)]
                if not names:
                    continue
                name = self._dice.choice(names)
                work = self._dice.choice(
                    (
                        *(self._reset, self._reset, self._set_quota, self._recreate),
                        *(self._adjust, self._void),
                    )
                )
                with self._at_work, self._books.quiet(name) as total_bytes:
                    until(
                        f"the bridge has looked at {name} since its last report",
                        lambda name=name, total=total_bytes: self._is_read(name, total),
                        # A look needs the panel, which accidents may keep away one after the other.
                        seconds=3 * self._taken_seconds,
                    )
                    work(name, total_bytes)
                    self.done_counts[work.__name__.strip("_")] += 1
        except AssertionError as error:
            self._books.note(f"the admin waits in vain: {error}")
        except Exception as error:  # noqa: BLE001 - the verdict says so
            self._books.note(f"the admin's work failed: {error!r}")

    def _is_workable(self, name: str) -> bool:
        """Tell whether the bridge can know of the user: somebody reported for it."""
        meant = self.meant[name]
        has_quota = meant.quota_bytes and not meant.is_disabled_by_admin
        return bool(has_quota and self._books.bytes[name])

    def _reset(self, name: str, total_bytes: int) -> None:
        until(f"{name} can be reset", lambda: self._press_reset(name), seconds=self._taken_seconds)
        self.meant[name] = replace(self.meant[name], baseline_bytes=total_bytes)
        self._until_taken(f"the reset of {name}", name)

    def _press_reset(self, name: str) -> bool:
        """Press the panel's button where that is sure to be seen, else the bridge's."""
        user = self._show(name)
        if user is None:
            return False
        if user["used_traffic"]:
            return self._try(PANEL, "POST", f"/api/user/{name}/reset") is not None
        return self._try(BRIDGE, "POST", f"/v1/users/{name}/reset") is not None

    def _set_quota(self, name: str, total_bytes: int) -> None:
        self._until_as_meant(name)  # or an edit may meet a write of the bridge that is under way
        quota_bytes = self._dice.randrange(1, 200) * 2**28
        body = {"data_limit": quota_bytes}
        until(
            f"the quota of {name} can be set",
            lambda: self._try(PANEL, "PUT", f"/api/user/{name}", body),
            seconds=self._taken_seconds,
        )
        self.meant[name] = replace(self.meant[name], quota_bytes=quota_bytes)
        self._until_taken(f"the new quota of {name}", name)

    def _recreate(self, name: str, total_bytes: int) -> None:
        self._until_as_meant(name)
        until(f"{name} can be deleted", lambda: self._is_deleted(name), seconds=self._taken_seconds)
        quota_bytes = self._dice.randrange(1, 200) * 2**28
        body = {"username": name, "data_limit": quota_bytes, **self._free_access}
        until(
            f"{name} can be made again",
            lambda: self._try(PANEL, "POST", "/api/user", body) or self._show(name),
            seconds=self._taken_seconds,
        )
        self.meant[name] = Meant(quota_bytes=quota_bytes, baseline_bytes=total_bytes)
        self._until_taken(f"the new {name}", name)

    def _adjust(self, name: str, total_bytes: int) -> None:
        """Take off some of what is used; the period's beginning moves by it."""
        external_bytes = total_bytes - self.meant[name].baseline_bytes
        amount = self._dice.randrange(1, external_bytes // 2 + 2) if external_bytes > 1 else 0
        if not amount:
            return
        self._correct("adjust", name, f"--bytes=-{amount}")
        self._books.corrected(amount, adjustments=1)
        self._until_corrected(name, amount)

    def _void(self, name: str, total_bytes: int) -> None:
        """Have a stolen key report a spike, and take it back."""
        amount = self._dice.randrange(1, SPIKE_BYTES)
        report = {
            "report_id": f"spike-{self.done_counts['void']}",
            "user_token": name,
            "server": "server-0",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": amount,
            "bytes_downloaded": 0,
        }
        until("the spike is taken", lambda: self._spike(report), seconds=self._taken_seconds)
        self._books.landed([report], were_chosen=False)
        until(
            f"the bridge has read the spike of {name}",
            lambda: self._is_read(name, total_bytes + amount),
            seconds=self._taken_seconds,
        )
        spans = ("--since", "2020-01-01T00:00Z", "--until", "2100-01-01T00:00Z")
        self._correct("void", "--reporter", SPIKE_REPORTER, "--user", name, *spans)
        self._books.corrected(amount, voided=1)
        self._until_corrected(name, amount)

    def _spike(self, report: dict[str, Any]) -> bool:
        try:
            answer = self._client.post(
                f"{self._stack.urls[COLLECTOR]}/v1/reports",
                json=[report],
                headers={"authorization": f"Bearer {SPIKE_KEY}"},
            )
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def _correct(self, *arguments: str) -> None:
        """Ask for a correction; again only if a crash cut it short."""
        reason = f"soak {self.done_counts.total()}"
        until(
            f"{arguments[0]} is carried out",
            lambda: self._is_corrected(*arguments, reason=reason),
            seconds=self._taken_seconds,
        )

    def _is_corrected(self, *arguments: str, reason: str) -> bool:
        """Tell whether a correction is done; ask for it if it is not kept yet."""
        ledger = self._store.with_name("ledger.sqlite3")
        try:
            with contextlib.closing(backend_of(f"sqlite:///{ledger}").reader()) as reader:
                found = [it for it in reader.corrections(limit=5) if it.wanted.reason == reason]
        except LedgerError:
            return False
        if found:
            return any(each.done_at_millis for each in found)
        self._stack.run("collector", *arguments, "--reason", reason, "--yes")
        return False

    def _until_corrected(self, name: str, amount: int) -> None:
        meant = self.meant[name]
        self.meant[name] = replace(meant, baseline_bytes=meant.baseline_bytes + amount)
        self._until_taken(f"the correction of {name}", name)

    def _is_deleted(self, name: str) -> bool:
        self._try(PANEL, "DELETE", f"/api/user/{name}")
        return self._try(PANEL, "GET", f"/api/user/{name}", expects=404) is not None

    def _show(self, name: str) -> dict[str, Any] | None:
        return self._try(PANEL, "GET", f"/api/user/{name}")

    def _try(
        self, program: str, method: str, path: str, body: Any = None, *, expects: int = 200
    ) -> dict[str, Any] | None:
        try:
            token = self._client.post(
                f"{self._stack.urls[program]}/api/admin/token",
                data={"username": "admin", "password": PANEL_PASSWORD},
            ).json()["access_token"]
            answer = self._client.request(
                method,
                self._stack.urls[program] + path,
                json=body,
                headers={"authorization": f"Bearer {token}"},
            )
            if answer.status_code != expects:
                return None
            return answer.json() or {"done": True}
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def _until_taken(self, what: str, name: str) -> None:
        def is_taken() -> bool:
            account, meant = self.account(name), self.meant[name]
            if account is None:
                return False
            return (account.baseline_bytes, account.quota_bytes) == (
                meant.baseline_bytes,
                meant.quota_bytes,
            )

        until(f"{what} is taken into account", is_taken, seconds=self._taken_seconds)

    def _until_as_meant(self, name: str) -> None:
        until(
            f"{name} is as it should be",
            lambda: not self.problem(name),
            seconds=self._taken_seconds,
        )

    def until_adopted(self) -> None:
        """Wait until the bridge has an account of every user."""
        for name in self.meant:
            until(
                f"{name} is adopted",
                functools.partial(self._is_adopted, name),
                seconds=self._taken_seconds,
            )

    def _is_adopted(self, name: str) -> bool:
        return self.account(name) is not None

    def account(self, name: str) -> Account | None:
        """Return what the bridge has on file."""
        return self._ask_store(lambda store: store.accounts.get(name))

    def _is_read(self, name: str, total_bytes: int) -> bool:
        """Tell whether the bridge has looked at the user since its last report."""
        account = self.account(name)
        return account is not None and account.seen_total_bytes == total_bytes

    def _ask_store(self, question: Callable[[Store], T]) -> T | None:
        try:
            store = Store(self._store, read_only=True)
        except StoreError:
            return None
        try:
            return question(store)
        except sqlite3.Error:
            return None
        finally:
            store.close()

    def problem(self, name: str) -> str | None:
        """Say what is wrong with how the panel treats a user; None if nothing is."""
        user = self._show(name)
        if user is None:
            return "the panel does not show it"
        meant = self.meant[name]
        quota_bytes, external_bytes = (
            meant.quota_bytes,
            self._books.bytes[name] - meant.baseline_bytes,
        )
        used_bytes, shown, status = user["used_traffic"], user["data_limit"], user["status"]
        if meant.is_disabled_by_admin:
            is_right = (status, shown) == ("disabled", quota_bytes)
            return None if is_right else f"{status}, though an admin disabled it"
        if not quota_bytes:
            return None if (status, shown) == ("active", None) else f"unlimited, yet {status}"
        if used_bytes + external_bytes >= quota_bytes:
            is_right = status in {"limited", "disabled"}
            return None if is_right else f"a used-up quota is open ({status}, limit {shown})"
        exact = max(FLOOR_BYTES, quota_bytes - external_bytes)
        step = max(PUBLISH_STEP_BYTES, (exact - used_bytes) * PUBLISH_STEP_SHARE)
        if status != "active" or not -ROUNDING_BYTES <= shown - exact <= step + ROUNDING_BYTES:
            return f"{status} with a limit of {shown} instead of {exact}"
        return None
