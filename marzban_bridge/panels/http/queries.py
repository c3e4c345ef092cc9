"""How many names go into one query: bounded by what a URL may be long, not by their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import quote

NAMES_PER_QUERY = 50
QUERY_BYTES = 2000
"""Of the names in a query, encoded: proxies refuse URLs of more than 4 to 8 KiB."""
OF_EACH_NAME = len("&username=")


def queries(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the names in portions that each fit into a query; a name that does not is alone."""
    query: list[str] = []
    left_bytes = QUERY_BYTES
    for name in names:
        needed_bytes = OF_EACH_NAME + len(quote(name, safe="", errors="replace"))
        if query and (len(query) == NAMES_PER_QUERY or needed_bytes > left_bytes):
            yield query
            query, left_bytes = [], QUERY_BYTES
        query.append(name)
        left_bytes -= needed_bytes
    if query:
        yield query
