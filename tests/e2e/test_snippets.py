"""The snippets of docs/client.md, run as they stand before a real collector."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from collector_process import KEY, CollectorProcess

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def snippet(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def collector(tmp_path):
    collector = CollectorProcess(tmp_path)
    collector.start()
    yield collector
    collector.kill()


def test_the_snippets_report_and_what_they_report_is_counted(collector, tmp_path):
    url = f"http://127.0.0.1:{collector.port}"
    environment = os.environ | {"COLLECTOR_URL": url, "REPORTER_KEY": KEY}
    expected = 0
    if shutil.which("curl"):
        subprocess.run(["sh", "-c", snippet("sh")], env=environment, check=True, timeout=60)
        expected += 9437184
        assert collector.totals() == {"alice": expected}
    python = snippet("python").replace("https://traffic.example.com", url).replace("rk_...", KEY)
    python = python.replace("/var/lib/app", str(tmp_path))
    exec(compile(python, "client.md", "exec"), {})
    assert collector.totals() == {"alice": expected + 9437184}


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH")
def test_the_snippet_of_javascript_says_why_it_is_refused(collector):
    program = snippet("js") + (
        'sendReport(process.argv[1], "alice", { server: "s", uploadBytes: 1, downloadBytes: 2 })'
        ".then(() => process.exit(1), (error) => { console.log(error.message); })"
    )
    url = f"http://127.0.0.1:{collector.port}"
    done = subprocess.run(
        ["node", "-e", program, url], capture_output=True, text=True, check=True, timeout=60
    )
    assert "refused: " in done.stdout
    assert "send Authorization: Bearer with a reporter key" in done.stdout
