"""The bridge's own sign-in at a panel: one at a time, and rarely while it is of no use.

Marzban tells its admin by Telegram of each sign-in that failed, with the password that was tried.
So a password that was refused is tried again after a pause that grows to an hour; a start of the
bridge, which reads the settings, tries at once. A token that is refused right after it was given
is no reason to ask for another at each request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from collector.runtime.pace import Pace
from marzban_bridge.errors import PanelLoginError, PanelUnavailableError

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
MAX_SIGN_INS = 5
"""So many in WINDOW_SECONDS are more than any token's end explains."""
WINDOW_SECONDS = 60.0


class PanelSession:
    """A token of the panel, got by `sign_in` when it is needed.

    `sign_in` raises PanelLoginError when the credentials are refused.
    """

    def __init__(
        self,
        sign_in: Callable[[], Awaitable[str]],
        *,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sign_in = sign_in
        self._monotonic_seconds = monotonic_seconds
        self._token: str | None = None
        self._signing_in = asyncio.Lock()
        self._refusal: str | None = None
        self._pace = Pace(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
        self._resume_at_seconds = 0.0
        self._signed_in_at: deque[float] = deque(maxlen=MAX_SIGN_INS)
        self._outage: PanelUnavailableError | None = None
        self._outages = 0

    async def token(self) -> str:
        """Return a token, the one there is if there is one."""
        return self._token or await self.renew(stale=None)

    async def renew(self, *, stale: str | None) -> str:
        """Return another token than the stale one; those who come together share one sign-in.

        Raises PanelLoginError, without asking, while the last refusal is not long enough ago.
        """
        outages = self._outages
        async with self._signing_in:
            if self._token and self._token != stale:
                return self._token
            if self._outage and self._outages != outages:
                raise PanelUnavailableError(
                    str(self._outage), retry_after_seconds=self._outage.retry_after_seconds
                )
            self._refuse_too_early()
            try:
                token = await self._sign_in()
            except PanelUnavailableError as error:
                self._outage, self._outages = error, self._outages + 1
                raise
            except PanelLoginError as error:
                raise self._pause(str(error)) from error
            self._token = token
            self._signed_in_at.append(self._monotonic_seconds())
            return token

    def accepted(self, token: str) -> None:
        """Note that the panel took a token."""
        if token == self._token and self._refusal:
            self._refusal, self._resume_at_seconds = None, 0.0
            self._pace.succeed()

    def refused(self, token: str, reason: str) -> PanelLoginError:
        """Note that a token was refused right after it was given; return what to raise."""
        if token != self._token:  # another request has signed in since
            return PanelLoginError(reason)
        return self._pause(reason)

    def _refuse_too_early(self) -> None:
        now_seconds = self._monotonic_seconds()
        wait_seconds = self._resume_at_seconds - now_seconds
        reason = self._refusal
        if wait_seconds <= 0 and len(self._signed_in_at) == MAX_SIGN_INS:
            wait_seconds = self._signed_in_at[0] + WINDOW_SECONDS - now_seconds
            reason = f"the panel gave {MAX_SIGN_INS} tokens within a minute and refuses them again"
        if wait_seconds > 0:
            raise _refusal(reason or "", wait_seconds)

    def _pause(self, reason: str) -> PanelLoginError:
        pause_seconds = self._pace.wait_seconds()
        self._resume_at_seconds = self._monotonic_seconds() + pause_seconds
        self._refusal = reason
        return _refusal(reason, pause_seconds)


def _refusal(reason: str, wait_seconds: float) -> PanelLoginError:
    return PanelLoginError(
        f"{reason} (signing in again at a restart of the bridge, else after a pause that grows to "
        "an hour)",
        retry_after_seconds=wait_seconds,
    )
