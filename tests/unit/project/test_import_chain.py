"""How deep imports go: a reader of one module may have to read those below it."""

from __future__ import annotations

from tests.support import import_chain

LIMITS = {"collector": 20, "marzban_bridge": 14}


def test_the_deepest_chain_of_imports_is_within_its_limit_and_there_is_no_circle():
    for package, limit in LIMITS.items():
        chain = import_chain.deepest_chain(package)
        assert len(chain) <= limit, f"{len(chain)} deep:\n" + "\n".join(chain)
