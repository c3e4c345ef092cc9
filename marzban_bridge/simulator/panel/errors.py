"""How the simulated panel says no."""

from __future__ import annotations

from collections.abc import Mapping


class RefusedError(Exception):
    """The panel answers with an error: its HTTP status and the `detail` of the body.

    Status 500 stands for a failure inside the panel; its body is plain text, without a detail.
    """

    def __init__(self, status: int, detail: str | Mapping[str, str]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def failure() -> RefusedError:
    """Return the answer to a request on which the panel itself breaks."""
    return RefusedError(500, "Internal Server Error")
