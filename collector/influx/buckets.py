"""The buckets an InfluxDB must have: what is missing or has drifted, and how it is mended.

InfluxQL on 2.x answers `SHOW TAG VALUES` from the database's default retention policy only, and
a bucket named `db/rp` is no default by itself: an explicit mapping makes it one
(`dbrp/service.go`, `v1/coordinator/statement_executor.go` of influxdb v2.9.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from influxdb_client import BucketRetentionRules, DBRPCreate, InfluxDBClient
from influxdb_client.domain.bucket import Bucket
from influxdb_client.service.dbr_ps_service import DBRPsService

from collector.errors import InfluxRefusedError
from collector.influx.access import InfluxAccess
from collector.influx.client import answered, open_client
from collector.schema import DATABASE, Policy

DAY_SECONDS = 86_400
FOR_EVER = 0
PAGE = 100


@dataclass(frozen=True, slots=True)
class BucketChange:
    """What one bucket needs; `from_seconds` is None where there is no such bucket yet."""

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
    """Compare retention as it should be, by policy, with what is there, by bucket name."""
    return [
        BucketChange(policy, current_seconds.get(policy.bucket), seconds)
        for policy, seconds in desired_seconds.items()
        if current_seconds.get(policy.bucket) != seconds
    ]


def shard_seconds(retention_seconds: int) -> int:
    """Return how much time one shard group is to span, by InfluxDB's own defaults.

    It does not follow when a retention is changed, and refuses one shorter than a shard group.
    """
    if retention_seconds == FOR_EVER or retention_seconds > 180 * DAY_SECONDS:
        return 7 * DAY_SECONDS
    return DAY_SECONDS if retention_seconds >= 2 * DAY_SECONDS else DAY_SECONDS // 24


class Buckets:
    """Reads and mends the buckets of one InfluxDB. Blocking.

    Every method raises InfluxUnavailableError or InfluxRefusedError.
    """

    def __init__(self, access: InfluxAccess) -> None:
        self._access = access

    def current_seconds(self) -> dict[str, int]:
        """Return the retention of every bucket that the token may see; 0 is for ever."""
        with answered(self._access.url), open_client(self._access) as client:
            return {each.name: _retention_seconds(each) for each in self._all(client)}

    def apply(self, changes: Iterable[BucketChange]) -> None:
        """Create and correct buckets; one that is corrected keeps its points."""
        with answered(self._access.url), open_client(self._access) as client:
            found = {each.name: each for each in self._all(client)}
            for change in changes:
                rules = [
                    BucketRetentionRules(
                        type="expire",
                        every_seconds=change.to_seconds,
                        shard_group_duration_seconds=shard_seconds(change.to_seconds),
                    )
                ]
                bucket = found.get(change.policy.bucket)
                if bucket is None:
                    client.buckets_api().create_bucket(
                        bucket_name=change.policy.bucket,
                        org=self.org_id(client),
                        retention_rules=rules,
                    )
                else:
                    bucket.retention_rules = rules
                    client.buckets_api().update_bucket(bucket)

    def map_default(self) -> bool:
        """Make `raw` what InfluxQL reads where a query names no policy; return if that was new."""
        with answered(self._access.url), open_client(self._access) as client:
            service = DBRPsService(client.api_client)
            org_id = self.org_id(client)
            known = service.get_dbr_ps(org_id=org_id, db=DATABASE).content or []
            if any(each.retention_policy == Policy.RAW and each.default for each in known):
                return False
            bucket = next(each for each in self._all(client) if each.name == Policy.RAW.bucket)
            mapping = DBRPCreate(
                org_id=org_id,
                bucket_id=bucket.id,
                database=DATABASE,
                retention_policy=Policy.RAW.value,
                default=True,
            )
            service.post_dbrp(mapping)
            return True

    def ids(self) -> dict[Policy, str]:
        """Return the ids of our buckets."""
        with answered(self._access.url), open_client(self._access) as client:
            found = {each.name: str(each.id) for each in self._all(client)}
        return {each: found[each.bucket] for each in Policy if each.bucket in found}

    def org_id(self, client: InfluxDBClient) -> str:
        """Return the id of the organization."""
        found = client.organizations_api().find_organizations(org=self._access.org)
        if not found:
            raise InfluxRefusedError(
                f"{self._access.url} has no organization {self._access.org!r}; see to INFLUXDB_ORG"
            )
        return str(found[0].id)

    def _all(self, client: InfluxDBClient) -> list[Bucket]:
        found: list[Bucket] = []
        while True:
            page = client.buckets_api().find_buckets(
                org=self._access.org, limit=PAGE, offset=len(found)
            )
            found += page.buckets
            if len(page.buckets) < PAGE:
                return found


def _retention_seconds(bucket: Bucket) -> int:
    return next((int(each.every_seconds) for each in bucket.retention_rules or []), FOR_EVER)
