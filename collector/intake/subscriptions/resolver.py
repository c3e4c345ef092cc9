"""Resolves subscription tokens to users by asking the panels, with a cache and a rate limit."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

import httpx

from collector.errors import (
    IdentityUnknownError,
    PanelUnavailableError,
    TokenUndecidedError,
    TooManyLookupsError,
)
from collector.intake.subscriptions.asking import Finding, ask_all
from collector.intake.subscriptions.memory import TokenMemory
from collector.intake.subscriptions.panel import SubscriptionPanel
from collector.metrics import Metrics
from collector.runtime.background import end_all
from collector.runtime.http.strangers import Strangers, network_of
from collector.runtime.rate_limit import RateLimit

LOOKUPS_PER_SECOND = 20.0
LOOKUP_BURST = 100.0
"""For what strangers send, as much again for what senders with a key do, and as much again for
tokens that wait for a panel that is away."""
UNDECIDED_PER_SECOND = 1.0
UNDECIDED_BURST = 60.0
"""Tokens of one address that may wait for an unreachable panel; further ones count as wrong."""


class Subscriptions:
    """Resolves subscription tokens to usernames.

    `links` says, by the panels' names and in their order, where their subscription links begin. A
    token is asked about once however many requests carry it; all panels are asked at the same time,
    and where several know a token it is of the first of them. Tokens are remembered by hash. While
    a panel is down, tokens of it that are remembered are resolved and others are not; tokens of the
    other panels are.
    """

    def __init__(
        self,
        links: Mapping[str, str],
        *,
        monotonic_seconds: Callable[[], float],
        metrics: Metrics,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._monotonic_seconds = monotonic_seconds
        self._metrics = metrics
        self._panels = {
            name: SubscriptionPanel(
                name,
                url,
                monotonic_seconds=monotonic_seconds,
                metrics=metrics,
                transport=transport,
            )
            for name, url in links.items()
        }
        self._memory = TokenMemory()
        self._asking: dict[bytes, asyncio.Task[str | None]] = {}
        self._of_keys = RateLimit(per_second=LOOKUPS_PER_SECOND, burst=LOOKUP_BURST)
        self._of_undecided = RateLimit(per_second=LOOKUPS_PER_SECOND, burst=LOOKUP_BURST)
        self._strangers = Strangers(total_per_second=LOOKUPS_PER_SECOND, total_burst=LOOKUP_BURST)
        self._undecided = RateLimit(
            per_second=UNDECIDED_PER_SECOND, burst=UNDECIDED_BURST, remembered=10_000
        )

    async def close(self) -> None:
        """End what is still asked, and close the connections to the panels."""
        await end_all(tuple(self._asking.values()))
        for panel in self._panels.values():
            await panel.close()

    @property
    def problems(self) -> list[str]:
        """The panels that cannot be asked, and why."""
        return [panel.problem for panel in self._panels.values() if panel.problem]

    async def resolve(self, token: str, *, stranger: str | None) -> str:
        """Return the user as reports name it: `alice`, of a further panel `two/alice`.

        `stranger` is the address that sent the token, None for a sender with a key. Raises
        IdentityUnknownError for a token that no panel accepts, PanelUnavailableError when a panel
        that may know it cannot be asked, TooManyLookupsError when panels are asked too much. A
        token that was right once is always asked about, however many wrong ones come meanwhile.
        """
        key = hashlib.sha256(token.encode()).digest()
        now_seconds = self._monotonic_seconds()
        proof = self._memory.proof(key)
        username: str | None
        if proof and now_seconds < proof.until_seconds:
            self._metrics.lookups.labels(result="remembered").inc()
            username = proof.username
        elif self._memory.denied_by(key, now_seconds=now_seconds) >= self._panels.keys():
            self._metrics.lookups.labels(result="remembered").inc()
            username = None
        else:
            username = await self._ask_once(key, token, stranger)
        if username is None:
            panels = "the panel does not know" if len(self._panels) == 1 else "no panel knows"
            raise IdentityUnknownError(f"{panels} this subscription token")
        return username

    async def _ask_once(self, key: bytes, token: str, stranger: str | None) -> str | None:
        task = self._asking.get(key)
        if task is None:
            asked = self._to_ask(key)
            if all(panel.is_pausing for panel in asked):
                self._metrics.lookups.labels(result="unavailable").inc()
                names = ", ".join(panel.name for panel in asked)
                raise PanelUnavailableError(f"panel {names} asked to be left alone for a while")
            is_new = self._memory.proof(key) is None and len(asked) == len(self._panels)
            if self._memory.proof(key) is None:
                self._take_lookup(stranger, is_new=is_new)
            task = self._asking[key] = asyncio.create_task(self._ask(key, token, asked))
            task.add_done_callback(lambda done: self._forget_asking(key, done))
            if stranger is not None and is_new:
                task.add_done_callback(lambda done: self._judge(stranger, done))
        return await asyncio.shield(task)

    def _to_ask(self, key: bytes) -> list[SubscriptionPanel]:
        """Return the panels that may know a token: the one that knew it, else all but the denying.

        While the panel that knew a token is away, no other is asked: its users would change names
        where another has a copy of its database.
        """
        proof = self._memory.proof(key)
        if proof:
            return [self._panels[proof.panel]]
        denied_by = self._memory.denied_by(key, now_seconds=self._monotonic_seconds())
        return [panel for name, panel in self._panels.items() if name not in denied_by]

    def _take_lookup(self, stranger: str | None, *, is_new: bool) -> None:
        now_seconds = self._monotonic_seconds()
        if not is_new:
            wait_seconds = self._of_undecided.take("", now_seconds=now_seconds)
        elif stranger is None:
            wait_seconds = self._of_keys.take("", now_seconds=now_seconds)
        else:
            wait_seconds = self._strangers.take(stranger, now_seconds=now_seconds)
        if wait_seconds:
            self._metrics.lookups.labels(result="limited").inc()
            raise TooManyLookupsError(
                "too many unknown subscription tokens; try again later", wait_seconds=wait_seconds
            )

    def _judge(self, stranger: str, done: asyncio.Task[str | None]) -> None:
        """Hold a wrong token against the address it came from, and no other outcome.

        Of those that some panels do not know and others could not be asked about, a number is
        forgiven: they may be right.
        """
        failure = None if done.cancelled() else done.exception()
        now_seconds = self._monotonic_seconds()
        is_held = not done.cancelled() and failure is None and done.result() is None
        if isinstance(failure, TokenUndecidedError):
            is_held = self._undecided.take(network_of(stranger), now_seconds=now_seconds) > 0
        if not is_held:
            self._strangers.give_back(stranger, now_seconds=now_seconds)

    def _forget_asking(self, key: bytes, done: asyncio.Task[str | None]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # mark it retrieved, in case every caller was cancelled

    async def _ask(self, key: bytes, token: str, asked: Sequence[SubscriptionPanel]) -> str | None:
        finding = await ask_all(asked, token)
        others = [
            panel
            for name, panel in self._panels.items()
            if panel not in asked and name not in self._denied_by(key)
        ]
        if finding.username is None and finding.failure is None and others:
            former, finding = finding, await ask_all(others, token)
            finding = finding._replace(denied_by=finding.denied_by | former.denied_by)
        return self._note(key, finding)

    def _denied_by(self, key: bytes) -> frozenset[str]:
        return self._memory.denied_by(key, now_seconds=self._monotonic_seconds())

    def _note(self, key: bytes, finding: Finding) -> str | None:
        """Cache a finding, and return or raise it."""
        now_seconds = self._monotonic_seconds()
        lookups = self._metrics.lookups
        if finding.username is not None:
            self._memory.note_proof(key, finding.username, finding.panel, now_seconds=now_seconds)
            lookups.labels(result="known").inc()
            return finding.username
        denied_by = finding.denied_by | self._denied_by(key)
        if finding.failure is None:
            self._memory.note_denial(
                key, self._panels.keys(), is_final=True, now_seconds=now_seconds
            )
            lookups.labels(result="unknown").inc()
            return None
        lookups.labels(result="unavailable").inc()
        if denied_by and isinstance(finding.failure, PanelUnavailableError):
            self._memory.note_denial(key, denied_by, is_final=False, now_seconds=now_seconds)
            raise TokenUndecidedError(str(finding.failure)) from None
        raise finding.failure
