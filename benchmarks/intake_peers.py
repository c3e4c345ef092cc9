"""What else takes a stream of reports, for `intake.py`: each with what it promises when it answers.

None of them adds up by user, or counts a report that is sent again once; Redis stores entries as
they come, the others points. A peer whose program is not installed is left out.
"""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NANOS = itertools.count(1_700_000_000_000_000_000)

Report = dict[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program, and how reports are sent to it."""

    name: str
    program: str
    command: Callable[[Path, int], Sequence[str]]
    """Its command line, given a folder and a port."""
    request: Callable[[Sequence[Report]], bytes]
    is_answered: Callable[[bytes, int], bool]
    """Whether an answer to so many reports is whole; raises AssertionError for a refusal."""
    prepare: Callable[[int], None] = lambda _: None
    """Called once it listens."""

    def why_not(self) -> str | None:
        """Return why it cannot run here; None if it can."""
        if shutil.which(self.program) is None:
            return f"{self.program} is not installed"
        if self.program == "influxd" and " v1" not in f" {_version_of_influxd()}":
            return "influxd is not 1.x: it would need an account first"
        return None

    def start(self, folder: Path, port: int) -> subprocess.Popen[bytes]:
        """Start it; it listens some time later."""
        return subprocess.Popen(  # noqa: S603 - a fixed command
            self.command(folder, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def _version_of_influxd() -> str:
    asked = subprocess.run(["influxd", "version"], capture_output=True, check=False, text=True)  # noqa: S607
    return asked.stdout.replace("InfluxDB ", "")


def _redis(folder: Path, port: int) -> Sequence[str]:
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return [
        "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(folder),
        *durable,
    ]


def _xadd(reports: Sequence[Report]) -> bytes:
    commands = []
    for report in reports:
        words = ["XADD", "traffic", "*", "report", json.dumps(report)]
        commands.append(f"*{len(words)}\r\n" + "".join(f"${len(it)}\r\n{it}\r\n" for it in words))
    return "".join(commands).encode()


def _is_added(answer: bytes, reports: int) -> bool:
    assert answer.startswith(b"$"), answer[:200]
    return answer.endswith(b"\r\n") and answer.count(b"\r\n") == 2 * reports


def _victoria(folder: Path, port: int) -> Sequence[str]:
    options = {"storageDataPath": folder, "httpListenAddr": f"127.0.0.1:{port}"}
    return ["victoria-metrics", *(f"-{name}={value}" for name, value in options.items())]


def _influx(folder: Path, port: int) -> Sequence[str]:
    config = folder / "influxdb.conf"
    config.write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:0"\n[meta]\ndir = "{folder}/meta"\n'
        f'[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\nquery-log-enabled = false\n'
        f'[http]\nbind-address = "127.0.0.1:{port}"\nlog-enabled = false\n'
        "[monitor]\nstore-enabled = false\n"
    )
    return ["influxd", "run", "-config", str(config)]


def _create_database(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            asked.request("POST", "/query?q=CREATE%20DATABASE%20traffic")
            if asked.getresponse().status == 200:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            asked.close()


def _lines(reports: Sequence[Report]) -> bytes:
    body = "\n".join(
        f"traffic,user={it['user_token']},server={it['server']},port=443,protocol=vless "
        f"upload_bytes={it['bytes_uploaded']}i,download_bytes={it['bytes_downloaded']}i,"
        f"connections=1i {next(NANOS)}"
        for it in reports
    ).encode()
    head = f"POST /write?db=traffic HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _is_written(answer: bytes, _: int) -> bool:
    assert answer.startswith(b"HTTP/1.1 204"[: len(answer)]), answer[:200]
    return answer.endswith(b"\r\n\r\n")


PEERS = (
    Peer(
        name="redis, XADD, fsync always",
        program="redis-server",
        command=_redis,
        request=_xadd,
        is_answered=_is_added,
    ),
    Peer(
        name="victoria-metrics (not durable at the answer)",
        program="victoria-metrics",
        command=_victoria,
        request=_lines,
        is_answered=_is_written,
    ),
    Peer(
        name="influxdb 1.x, line protocol",
        program="influxd",
        command=_influx,
        request=_lines,
        is_answered=_is_written,
        prepare=_create_database,
    ),
)
