"""Least-privilege tokens: one per program, in files that only that program can read.

InfluxDB shows a token only when it is created. So if a token's file is lost or the token no longer
works, a new token is created and the old one revoked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from influxdb_client import Authorization, InfluxDBClient, Permission, PermissionResource

from collector.errors import InfluxRefusedError
from collector.influx.access import InfluxAccess
from collector.influx.buckets import Buckets
from collector.influx.official import signed_in
from collector.schema import Policy

TOKEN_FILE = "token"  # noqa: S105 - the file's name


class Action(StrEnum):
    """An action that a token may do on a bucket."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The permissions of one program's token, and the mode of its file."""

    program: str
    permissions: tuple[tuple[Action, Policy], ...]
    file_mode: int = 0o600

    @property
    def description(self) -> str:
        """The token's description in InfluxDB, by which it is found."""
        return f"external traffic: {self.program}"


GRANTS: Sequence[Grant] = (
    Grant(
        program="collector",
        permissions=tuple((action, policy) for policy in Policy for action in Action),
    ),
    Grant(
        program="bridge",
        permissions=((Action.READ, Policy.RAW), (Action.WRITE, Policy.RAW)),
    ),
    Grant(
        program="grafana",
        permissions=tuple((Action.READ, policy) for policy in Policy),
        file_mode=0o644,  # Grafana runs as another user
    ),
)


def issue_tokens(access: InfluxAccess, folder: Path) -> list[str]:
    """Make sure that every program's file under `folder` has a valid token.

    Returns the programs whose token was created. `access` has an operator's token. Raises
    InfluxError, or OSError when a file cannot be written.
    """
    ids = Buckets(access).ids()
    made: list[str] = []
    for grant in GRANTS:
        path = folder / grant.program / TOKEN_FILE
        if _works(replace(access, token="", token_file=path), grant, ids):
            continue
        _write(path, _make(access, grant, ids), grant.file_mode)
        made.append(grant.program)
    return made


def _works(access: InfluxAccess, grant: Grant, ids: dict[Policy, str]) -> bool:
    """Tell whether a program's token exists and has access to its present buckets."""
    if access.token_file is None or not access.token_file.exists():
        return False
    try:
        seen = Buckets(access).ids()
    except InfluxRefusedError:
        return False
    needed = {policy for action, policy in grant.permissions if action is Action.READ}
    return all(seen.get(policy) == ids[policy] for policy in needed)


def _make(access: InfluxAccess, grant: Grant, ids: dict[Policy, str]) -> str:
    org_id = Buckets(access).org_id()
    with signed_in(access) as client:
        _revoke(client, org_id, grant.description)
        permissions = [
            Permission(
                action=action.value,
                resource=PermissionResource(type="buckets", id=ids[policy], org_id=org_id),
            )
            for action, policy in grant.permissions
        ]
        asked = Authorization(org_id=org_id, description=grant.description, permissions=permissions)
        made = client.authorizations_api().create_authorization(authorization=asked)
        return str(made.token)


def _revoke(client: InfluxDBClient, org_id: str, description: str) -> None:
    api = client.authorizations_api()
    for each in api.find_authorizations(org_id=org_id):
        if each.description == description:
            api.delete_authorization(each)


def _write(path: Path, token: str, mode: int) -> None:
    """Write the token's file atomically, with its final mode from the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(token + "\n")
    draft.chmod(mode)
    draft.replace(path)
