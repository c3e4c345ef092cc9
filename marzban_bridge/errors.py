"""What can go wrong in the bridge, and what the operator can do about it."""

from __future__ import annotations


class BridgeError(Exception):
    """The parent of every error the bridge raises on purpose."""


class SettingsError(BridgeError):
    """What is set, or asked for, cannot be used; the message names it and says what to do."""


class StoreError(BridgeError):
    """The bridge's own store cannot be used: locked, corrupt, or written by a newer version."""


class StoreSuspendedError(StoreError):
    """The store is older than what the collector knows of it; it changes nobody until a rebase."""


class PanelSuspendedError(BridgeError):
    """A panel shows its users as no admin would leave them; none is changed for now."""


class StoreAwayError(StoreError):
    """The database that the store is in cannot be used now; it may be again later."""


class NotLeadingError(StoreError):
    """This process may not write any more, to the store or to a panel: another one may lead."""


class FollowingError(BridgeError):
    """Another bridge leads, and nothing was done; that one, or this one later, can do it."""


class StandingStillError(BridgeError):
    """The running bridge stands still for something else, and nothing was done; try again."""


class ReleasedError(BridgeError):
    """All users have their quotas back; the bridge changes nobody until it is restarted."""


class ObservingError(BridgeError):
    """The bridge only observes (BRIDGE_ENFORCEMENT), and this would change the panel."""


class PanelError(BridgeError):
    """The panel did not do what was asked."""


class OddUserError(PanelError):
    """The panel shows a user in a way the bridge cannot read; the user is left as it is."""


class PanelUnavailableError(PanelError):
    """The panel is down, slow or failing; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """How long to leave it alone, where that is known."""


class PanelFailingError(PanelUnavailableError):
    """The panel answers 500, its own failure; it may be about one user only."""


class PanelBusyError(PanelUnavailableError):
    """The panel, or a proxy before it, is asked too much (429)."""


class NotThePanelError(PanelUnavailableError):
    """Something else answers in the panel's place: a proxy's page, another program."""


class PanelLoginError(PanelError):
    """The panel refuses the bridge's own credentials; only the operator can mend that."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """How long no sign-in is tried."""


class PanelRefusedError(PanelError):
    """The panel understood the call and said no; the same call will be refused again."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UserNotFoundError(PanelRefusedError):
    """The panel has no user of that name."""

    def __init__(self, username: str) -> None:
        super().__init__(f"the panel has no user {username!r}", status=404)
        self.username = username


class CollectorUnavailableError(BridgeError):
    """The collector is down, slow or failing; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """How long to leave it alone, where that is known."""


class CollectorRefusedError(BridgeError):
    """The collector understood the call and said no, for example because the key is wrong."""


class CollectorNotFoundError(CollectorRefusedError):
    """The collector has no such thing, or is an older version that does not know of it."""
