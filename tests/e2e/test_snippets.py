"""The Python of docs/client.md, run as it stands before a real collector."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.collector.collector_process import KEY, CollectorProcess

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


@pytest.fixture
def collector(tmp_path):
    collector = CollectorProcess(tmp_path)
    collector.start()
    yield collector
    collector.kill()


def test_the_snippet_reports_and_what_it_reports_is_counted(collector, tmp_path):
    python = re.search(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[1]
    for said, here in (
        ("https://traffic.example.com", f"http://127.0.0.1:{collector.port}"),
        ("rk_...", KEY),
        ("/var/lib/app", str(tmp_path)),
    ):
        assert said in python
        python = python.replace(said, here)
    exec(compile(python, "client.md", "exec"), {})
    assert collector.totals() == {"alice": 9437184}
