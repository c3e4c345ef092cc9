"""The buckets that an InfluxDB must have: finds missing ones and drift, and corrects both.

InfluxQL on 2.x answers `SHOW TAG VALUES` from the database's default retention policy only. A
bucket named `db/rp` is not the default by itself; an explicit mapping makes it the default
(`dbrp/service.go`, `v1/coordinator/statement_executor.go` of influxdb v2.9.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from collector.errors import InfluxRefusedError
from collector.influx.access import InfluxAccess
from collector.influx.client import answered, ask, open_client
from collector.schema import DATABASE, Policy

DAY_SECONDS = 86_400
FOR_EVER = 0
PAGE = 100


@dataclass(frozen=True, slots=True)
class BucketChange:
    """A change of one bucket; `from_seconds` is None if the bucket does not exist yet."""

    policy: Policy
    from_seconds: int | None
    to_seconds: int

    def __str__(self) -> str:
        kept = "for ever" if self.to_seconds == FOR_EVER else f"{self.to_seconds / DAY_SECONDS:g} d"
        if self.from_seconds is None:
            return f"bucket {self.policy.bucket} is missing; it keeps points {kept}"
        was = (
            "for ever"
            if self.from_seconds == FOR_EVER
            else f"{self.from_seconds / DAY_SECONDS:g} d"
        )
        return f"bucket {self.policy.bucket} keeps points {was}, it should be {kept}"


def plan_buckets(
    desired_seconds: Mapping[Policy, int], current_seconds: Mapping[str, int]
) -> list[BucketChange]:
    """Compare the desired retention, by policy, with the current one, by bucket name."""
    return [
        BucketChange(policy, current_seconds.get(policy.bucket), seconds)
        for policy, seconds in desired_seconds.items()
        if current_seconds.get(policy.bucket) != seconds
    ]


def shard_seconds(retention_seconds: int) -> int:
    """Return the duration of a shard group, by InfluxDB's own defaults.

    InfluxDB does not adapt it when a retention changes, and refuses a retention shorter than it.
    """
    if retention_seconds == FOR_EVER or retention_seconds > 180 * DAY_SECONDS:
        return 7 * DAY_SECONDS
    return DAY_SECONDS if retention_seconds >= 2 * DAY_SECONDS else DAY_SECONDS // 24


class _Rule(msgspec.Struct, rename="camel"):
    every_seconds: int = FOR_EVER


class _Bucket(msgspec.Struct, rename="camel"):
    id: str
    name: str
    retention_rules: list[_Rule] = []

    @property
    def retention_seconds(self) -> int:
        return self.retention_rules[0].every_seconds if self.retention_rules else FOR_EVER


class _BucketPage(msgspec.Struct):
    buckets: list[_Bucket] = []


class _Org(msgspec.Struct):
    id: str


class _Orgs(msgspec.Struct):
    orgs: list[_Org] | None = None


class _Mapping(msgspec.Struct):
    retention_policy: str
    default: bool


class _Mappings(msgspec.Struct):
    content: list[_Mapping] | None = None


class Buckets:
    """Reads and corrects the buckets of one InfluxDB. Blocking.

    Every method raises InfluxUnavailableError, InfluxRefusedError, or SettingsError without a
    readable token. Nothing is written if nothing has to change.
    """

    def __init__(self, access: InfluxAccess) -> None:
        self._access = access

    def current_seconds(self) -> dict[str, int]:
        """Return the retention of every bucket that the token can see; 0 is for ever."""
        return {each.name: each.retention_seconds for each in self._all()}

    def apply(self, changes: Iterable[BucketChange]) -> None:
        """Create and correct buckets; a corrected bucket keeps its points."""
        changes = list(changes)
        if not changes:
            return
        from collector.influx import official  # noqa: PLC0415 - 14 MB, and buckets change once

        found = {each.name: each.id for each in self._all()}
        for change in changes:
            name = change.policy.bucket
            rules = {
                "retention_seconds": change.to_seconds,
                "shard_seconds": shard_seconds(change.to_seconds),
            }
            if name in found:
                official.correct_bucket(self._access, found[name], name, **rules)
            else:
                official.create_bucket(self._access, name, org_id=self.org_id(), **rules)

    def map_default(self) -> bool:
        """Make `raw` InfluxQL's default policy; return whether that was a change."""
        org_id = self.org_id()
        with answered(self._access.url), open_client(self._access) as client:
            known = ask(client, "/api/v2/dbrps", _Mappings, orgID=org_id, db=DATABASE).content
        if any(each.retention_policy == Policy.RAW and each.default for each in known or []):
            return False
        from collector.influx import official  # noqa: PLC0415 - 14 MB, and this is done once

        official.map_default(self._access, org_id=org_id, bucket_id=self.ids()[Policy.RAW])
        return True

    def ids(self) -> dict[Policy, str]:
        """Return the ids of our buckets."""
        found = {each.name: each.id for each in self._all()}
        return {each: found[each.bucket] for each in Policy if each.bucket in found}

    def org_id(self) -> str:
        """Return the id of the organization."""
        with answered(self._access.url), open_client(self._access) as client:
            found = ask(client, "/api/v2/orgs", _Orgs, org=self._access.org).orgs
        if not found:
            raise InfluxRefusedError(
                f"{self._access.url} shows this token no organization {self._access.org!r}; "
                "correct INFLUXDB_ORG, or use an operator's token"
            )
        return found[0].id

    def _all(self) -> list[_Bucket]:
        found: list[_Bucket] = []
        with answered(self._access.url), open_client(self._access) as client:
            while True:
                page = ask(
                    client,
                    "/api/v2/buckets",
                    _BucketPage,
                    org=self._access.org,
                    limit=PAGE,
                    offset=len(found),
                ).buckets
                found += page
                if len(page) < PAGE:
                    return found
