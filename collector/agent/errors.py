"""What can go wrong in the agent, and what the operator can do about it."""

from __future__ import annotations


class AgentError(Exception):
    """The parent of every error the agent raises on purpose."""


class SourceError(AgentError):
    """A source cannot be read now, or says what cannot be understood; it is asked again later."""
