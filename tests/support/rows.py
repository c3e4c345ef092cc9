"""Holds many things to one rule in a single test, which names all that break it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

MOST_SHOWN = 30


def _name_of(row: Any) -> str:
    return " · ".join(map(str, row)) if isinstance(row, tuple) else str(row)


def for_each(
    names: str | tuple[str, ...], rows: Iterable[Any], *, called: Callable[[Any], str] = _name_of
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for every row, as `parametrize` does, but as one test with one message.

    What a row is called there is `str` of its values, unless `called` says otherwise. Without any
    row the test fails.
    """
    wanted = (names,) if isinstance(names, str) else names
    given = list(rows)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def hold_each(**fixtures: Any) -> None:
            faults: dict[str, Exception] = {}
            for row in given:
                values = row if isinstance(names, tuple) else (row,)
                try:
                    test(**fixtures, **dict(zip(wanted, values, strict=True)))
                except Exception as error:  # noqa: BLE001 - each is told below
                    faults[called(row)] = error
            assert given, f"there is no {' and '.join(wanted)}"
            if faults:
                told = [f"{row}: {error!r}" for row, error in faults.items()][:MOST_SHOWN]
                message = f"{len(faults)} of {len(given)} do not hold:\n" + "\n".join(told)
                raise AssertionError(message) from next(iter(faults.values()))

        left = [each for name, each in signature.parameters.items() if name not in wanted]
        hold_each.__signature__ = signature.replace(parameters=left)
        return hold_each

    return decorate
