"""Compiles the test files once, not once in each worker of a run of all tests.

pytest compiles a test file, its asserts rewritten, when it is first collected, and keeps the result
beside it. On a fresh checkout all workers collect all files at the same time, so each would compile
all. With this each compiles its share first, and mostly finds the others' shares compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from _pytest.assertion import rewrite


def compile_share(files: Iterable[Path], config: pytest.Config) -> None:
    """Compile those files of the tests that are not compiled, one of so many as there are workers.

    Nothing happens in a process that is not a worker.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for file in sorted(files)[number::count]:
        kept = rewrite.get_cache_dir(file) / f"{file.stem}{rewrite.PYC_TAIL}"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            content, code = rewrite._rewrite_test(file, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, content, kept)
