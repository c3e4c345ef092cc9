"""A reporter that knows the truth: issues ids, and writes down what was acknowledged.

A program of its own, so that nothing of the product's state can leak into its books. It sends each
report until it is acknowledged, and now and then sends an acknowledged one again.

    oracle.py URL KEY BOOKS STOP NAME USERNAME…
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MAX_REPORT_BYTES = 64 * 2**20


def main(url: str, key: str, books: str, stop: str, name: str, *usernames: str) -> None:
    dice = random.Random(name)
    sent: list[dict[str, object]] = []
    number = 0
    with Path(books).open("a") as book:
        while not Path(stop).exists():
            batch = []
            for _ in range(dice.choice((1, 1, 2, 10))):
                number += 1
                amount = dice.randrange(1, MAX_REPORT_BYTES)
                batch.append(
                    {
                        "report_id": f"{name}-{number}",
                        "user_token": dice.choice(usernames),
                        "server": f"server-{dice.randrange(3)}",
                        "port": 443,
                        "protocol": "vless",
                        "bytes_uploaded": amount // 3,
                        "bytes_downloaded": amount - amount // 3,
                    }
                )
            again = dice.sample(sent, min(len(sent), 3)) if dice.random() < 0.2 else []
            until_acknowledged(url, key, [*batch, *again])
            for each in batch:
                amount = each["bytes_uploaded"] + each["bytes_downloaded"]
                book.write(f"{each['report_id']} {each['user_token']} {amount}\n")
            book.flush()
            sent = (sent + batch)[-500:]
            time.sleep(0.01)


def until_acknowledged(url: str, key: str, batch: list[dict[str, object]]) -> None:
    body = json.dumps(batch).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    while True:
        with contextlib.suppress(OSError, ValueError, urllib.error.HTTPError):
            request = urllib.request.Request(f"{url}/v1/reports", body, headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                result = json.loads(answer.read())
            if result["accepted"] + result["duplicates"] == len(batch):
                return
            raise SystemExit(f"a good report was refused: {result}")
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
