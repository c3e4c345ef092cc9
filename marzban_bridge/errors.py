"""What can go wrong in the bridge, and what the operator can do about it."""

from __future__ import annotations


class BridgeError(Exception):
    """The parent of every error the bridge raises on purpose."""


class SettingsError(BridgeError):
    """A setting or an argument cannot be used; the message names it and says what to do."""


class StoreError(BridgeError):
    """The bridge's own store cannot be used: locked, corrupt, or written by a newer version."""


class StoreSuspendedError(StoreError):
    """The store is older than the collector's record of it; no user is changed until a rebase."""


class PanelSuspendedError(BridgeError):
    """The panel is suspended: its data cannot be trusted, and none of its users is changed."""


class StoreAwayError(StoreError):
    """The store's database cannot be reached or used now; the same call may succeed later."""


class NotLeadingError(StoreError):
    """This process does not hold the lease, so it may write neither to the store nor to a panel."""


class FollowingError(BridgeError):
    """Another bridge holds the lease, and nothing was done; ask the leading bridge."""


class PausedError(BridgeError):
    """A rebase or a release is under way, and nothing was done; try again."""


class ReleasedError(BridgeError):
    """All users were released; the bridge changes no user until it is restarted."""


class ObservingError(BridgeError):
    """BRIDGE_ENFORCEMENT is observe, and the call would change the panel; nothing was done."""


class UnknownResellerError(BridgeError):
    """No admin of the name has a quota, or the panel has no such admin."""


class PanelError(BridgeError):
    """The panel did not do what was asked."""


class OddUserError(PanelError):
    """The panel's answer for one user cannot be parsed; the user is not changed."""


class PanelUnavailableError(PanelError):
    """The panel is down, slow or failing; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """Seconds until the next try, as the other side asks for it; None if it does not."""


class PanelFailingError(PanelUnavailableError):
    """The panel answers 500; the cause may be a single user."""


class PanelBusyError(PanelUnavailableError):
    """The panel, or a proxy before it, answers 429: too many requests."""


class NotThePanelError(PanelUnavailableError):
    """The answer is not the panel's: it is a proxy's page, or another program's."""


class PanelLoginError(PanelError):
    """The panel refuses the bridge's credentials; the operator has to correct them."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """Seconds until the next sign-in is tried."""


class PanelRefusedError(PanelError):
    """The panel refused the call (4xx); the same call will be refused again."""

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
        """Seconds until the next try, as the other side asks for it; None if it does not."""


class CollectorRefusedError(BridgeError):
    """The collector refused the call (4xx), for example because the key is wrong."""


class CollectorNotFoundError(CollectorRefusedError):
    """The collector answers 404: it has no such object, or is a version without this route."""
