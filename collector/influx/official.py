"""What InfluxDB's official client is for: making and correcting buckets, mappings and tokens.

Its import takes 14 MB, the models of everything InfluxDB can do. So this module is imported where
something is to be changed, and not by a collector or bridge that finds all as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from influxdb_client import BucketRetentionRules, DBRPCreate, InfluxDBClient
from influxdb_client.domain.bucket import Bucket
from influxdb_client.rest import ApiException
from influxdb_client.service.dbr_ps_service import DBRPsService

from collector.errors import InfluxRefusedError, InfluxUnavailableError
from collector.influx.access import InfluxAccess
from collector.influx.client import refusal
from collector.schema import DATABASE, Policy

TIMEOUT_MILLIS = (3_000, 20_000)
"""For a connection, and for an answer."""


@contextmanager
def signed_in(access: InfluxAccess) -> Iterator[InfluxDBClient]:
    """Lend the official client, and turn what it raises into our errors.

    Raises InfluxUnavailableError, InfluxRefusedError, or SettingsError without a readable token.
    """
    token = access.read_token()
    try:
        with InfluxDBClient(access.url, token, org=access.org, timeout=TIMEOUT_MILLIS) as client:
            yield client
    except ApiException as error:
        raise refusal(access.url, error.status, str(error.body or error.reason)) from error
    except urllib3.exceptions.HTTPError as error:
        raise InfluxUnavailableError(
            f"{access.url} does not answer: {type(error).__name__}"
        ) from error
    except UnicodeDecodeError as error:
        raise InfluxRefusedError(
            f"{access.url} answers no text: something other than InfluxDB is there"
        ) from error


def create_bucket(
    access: InfluxAccess, name: str, *, retention_seconds: int, shard_seconds: int
) -> None:
    """Make a bucket; raises as `signed_in` says."""
    with signed_in(access) as client:
        client.buckets_api().create_bucket(
            bucket_name=name,
            org=access.org,
            retention_rules=[_rules(retention_seconds, shard_seconds)],
        )


def correct_bucket(
    access: InfluxAccess, bucket_id: str, name: str, *, retention_seconds: int, shard_seconds: int
) -> None:
    """Change how long a bucket keeps its points; raises as `signed_in` says."""
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
    """Make `raw` what InfluxQL reads where a query names no policy; raises as `signed_in` says."""
    mapping = DBRPCreate(
        org_id=org_id,
        bucket_id=bucket_id,
        database=DATABASE,
        retention_policy=Policy.RAW.value,
        default=True,
    )
    with signed_in(access) as client:
        DBRPsService(client.api_client).post_dbrp(mapping)
