"""A program that reports by the client: notes what it queued, and what its client says is wrong.

    python torture_client.py URL KEY SPOOL NOTES STANDING

NOTES gets `try N` before report N of user `c-N` is queued, and `ok N` once that returned; `no N`
where it raised, and nothing was kept. STANDING is replaced with the client's problem and backlog.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from collector.client import Client, ClientError, Report

TIMEOUT_SECONDS = 5.0
EACH_SECONDS = 0.1


def amount_of(number: int) -> int:
    """Return how many bytes report N is about."""
    return 1000 + number % 997


def _last(notes: Path) -> int:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return max((int(line.split()[1]) for line in lines if line.startswith("try ")), default=0)


def main() -> None:
    """Queue reports until killed."""
    url, key, spool, notes, standing = sys.argv[1:]
    number = _last(Path(notes))
    with Path(notes).open("a") as file:
        client = Client(url, key=key, spool=spool, timeout_seconds=TIMEOUT_SECONDS)
        while True:
            number += 1
            file.write(f"try {number}\n")
            file.flush()
            report = Report(
                user=f"c-{number}", server="de-1", upload_bytes=amount_of(number), download_bytes=0
            )
            try:
                client.queue(report)
            except ClientError as error:
                refused = str(error)
                file.write(f"no {number}\n")
            else:
                refused = ""
                file.write(f"ok {number}\n")
            file.flush()
            said = {"problem": client.problem, "refused": refused, "items": _items(client)}
            beside = Path(standing + ".new")
            beside.write_text(json.dumps(said))
            beside.replace(standing)
            time.sleep(EACH_SECONDS)


def _items(client: Client) -> int | None:
    try:
        return client.backlog().items
    except ClientError:
        return None


if __name__ == "__main__":
    main()
