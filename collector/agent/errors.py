"""The errors of the agent; each message says what to do."""

from __future__ import annotations


class AgentError(Exception):
    """The parent of every error the agent raises on purpose."""


class SourceError(AgentError):
    """A source does not answer, or its answer cannot be decoded; it is polled again later."""
