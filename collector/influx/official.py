"""Changes of buckets, mappings and tokens, by InfluxDB's official client.

Importing that client takes 14 MB of memory. So this module is imported only when something must be
changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from influxdb_client import BucketRetentionRules, DBRPCreate, InfluxDBClient
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.domain.bucket import Bucket
from influxdb_client.rest import ApiException
from influxdb_client.service.dbr_ps_service import DBRPsService

from collector.errors import InfluxRefusedError, InfluxUnavailableError
from collector.influx.access import InfluxAccess
from collector.influx.client import refusal
from collector.schema import DATABASE, Policy

TIMEOUT_MILLIS = (3_000, 20_000)
"""Timeouts of a connection and of an answer."""


@contextmanager
def signed_in(access: InfluxAccess) -> Iterator[InfluxDBClient]:
    """Yield the official client, and translate its exceptions into our errors.

    Raises InfluxUnavailableError, InfluxRefusedError, or SettingsError without a readable token.
    """
    token = access.read_token()
    try:
        with InfluxDBClient(access.url, token, org=access.org, timeout=TIMEOUT_MILLIS) as client:
            yield client
    except ApiException as error:
        raise refusal(access.url, error.status, str(error.body or error.reason)) from error
    except InfluxDBError as error:  # as where the token cannot see the organization
        raise InfluxRefusedError(f"{access.url}: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        raise InfluxUnavailableError(
            f"{access.url} does not answer: {type(error).__name__}"
        ) from error
    except UnicodeDecodeError as error:
        raise InfluxRefusedError(
            f"{access.url} does not answer as InfluxDB does: correct INFLUXDB_URL"
        ) from error


def create_bucket(
    access: InfluxAccess, name: str, *, org_id: str, retention_seconds: int, shard_seconds: int
) -> None:
    """Create a bucket; raises as `signed_in`."""
    with signed_in(access) as client:
        client.buckets_api().create_bucket(
            bucket_name=name,
            org=org_id,
            retention_rules=[_rules(retention_seconds, shard_seconds)],
        )


def correct_bucket(
    access: InfluxAccess, bucket_id: str, name: str, *, retention_seconds: int, shard_seconds: int
) -> None:
    """Change a bucket's retention; raises as `signed_in`."""
    bucket = Bucket(
        id=bucket_id, name=name, retention_rules=[_rules(retention_seconds, shard_seconds)]
    )
    with signed_in(access) as client:
        client.buckets_api().update_bucket(bucket)


def _rules(retention_seconds: int, shard_seconds: int) -> BucketRetentionRules:
    return BucketRetentionRules(
        type="expire",
        every_seconds=retention_seconds,
        shard_group_duration_seconds=shard_seconds,
    )


def map_default(access: InfluxAccess, *, org_id: str, bucket_id: str) -> None:
    """Make `raw` InfluxQL's default policy; raises as `signed_in`."""
    mapping = DBRPCreate(
        org_id=org_id,
        bucket_id=bucket_id,
        database=DATABASE,
        retention_policy=Policy.RAW.value,
        default=True,
    )
    with signed_in(access) as client:
        DBRPsService(client.api_client).post_dbrp(mapping)
