"""What bots beside a panel do: read every user, page by page, and compare with the last time."""

from __future__ import annotations

import json
import resource
import sys
import time

import httpx
from counting_panel import PASSWORD

PAGE = 100


def poll(url: str) -> None:
    """Read all users once to warm up and once to be measured; print the figures as JSON."""
    known: dict[str, tuple[int, int | None]] = {}
    with httpx.Client(base_url=url, timeout=60) as client:
        form = {"username": "admin", "password": PASSWORD}
        token = client.post("/api/admin/token", data=form).json()["access_token"]
        client.headers["authorization"] = f"Bearer {token}"
        _round(client, known, pages=20)
        cpu_before, started_at = time.process_time(), time.monotonic()
        requests = _round(client, known)
        figures = {
            "requests": requests,
            "seconds": time.monotonic() - started_at,
            "cpu_seconds": time.process_time() - cpu_before,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    sys.stdout.write(json.dumps(figures))


def _round(
    client: httpx.Client, known: dict[str, tuple[int, int | None]], *, pages: int | None = None
) -> int:
    """Note who changed, and do nothing about it; return how many requests that took."""
    requests = offset = 0
    while requests != pages:
        page = client.get("/api/users", params={"offset": offset, "limit": PAGE}).json()["users"]
        requests += 1
        for user in page:
            known[user["username"]] = (user["used_traffic"], user["data_limit"])
        if len(page) < PAGE:
            break
        offset += PAGE
    return requests
