"""How deep imports go: whoever reads one module has to look into those below it."""

from __future__ import annotations

from tests.support import import_chain

LIMITS = {"marzban_bridge": 14}


def test_the_deepest_chain_of_imports_is_within_its_limit_and_there_is_no_circle():
    for package, limit in LIMITS.items():
        chain = import_chain.deepest_chain(package)
        assert len(chain) <= limit, f"{len(chain)} deep:\n" + "\n".join(chain)
