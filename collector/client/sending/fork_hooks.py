"""Calls objects that hold locks, threads or files before and after this process forks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forks(Protocol):
    """An object that must prepare for a fork."""

    def before_fork(self) -> None:
        """Release what a child must not inherit."""
        ...

    def after_fork_in_parent(self) -> None:
        """Resume in the parent."""
        ...

    def after_fork_in_child(self) -> None:
        """Reset: a child has no other threads, and must not use the parent's connections."""
        ...


_members: weakref.WeakSet[Forks] = weakref.WeakSet()
_forking = threading.local()


def register(member: Forks) -> None:
    """Call an object's hooks at each fork, as long as the object is referenced."""
    _members.add(member)


def _before() -> None:
    _forking.members = list(_members)
    for each in _forking.members:
        each.before_fork()


def _after_in_parent() -> None:
    for each in _forking.__dict__.pop("members", ()):
        each.after_fork_in_parent()


def _after_in_child() -> None:
    for each in _forking.__dict__.pop("members", ()):
        each.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
