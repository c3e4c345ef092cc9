#!/bin/sh
# Installs the client alone into a fresh environment, and says how many packages that took.
# PYTHON names the interpreter (python3). Needs a package index, and removes all it made.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv build --quiet --wheel --out-dir "$folder" packaging/client
uv venv --quiet --python "${PYTHON:-python3}" "$folder/venv"
VIRTUAL_ENV="$folder/venv" uv pip install --quiet "$folder"/*.whl
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON_CODE'
import importlib.metadata
import sys

from collector.client import AsyncClient, Client, ClientError, Report

with Client("http://127.0.0.1:9", key="rk_x", spool="spool", exit_flush_seconds=0) as client:
    client.queue(Report(user="alice", server="de-1", upload_bytes=1, download_bytes=2))
    client.close(timeout_seconds=0.2)
    print("refused as it should be:", client.problem)
assert AsyncClient and ClientError
assert not {"fastapi", "uvicorn", "msgspec", "influxdb_client"} & set(sys.modules)
names = sorted(each.metadata["Name"] for each in importlib.metadata.distributions())
print(f"{len(names)} packages on Python {sys.version.split()[0]}:", *names)
PYTHON_CODE
