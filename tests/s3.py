"""What another machine does to the bucket under test, and a store in front of it that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session
import pytest
import s3fs

from pipeline.chaos.faulty_store import FaultyStore


def s3_client():
    """A client of its own, as another machine would be."""
    return botocore.session.get_session().create_client("s3")


def split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def put(url: str, data: bytes) -> None:
    bucket, key = split(url)
    s3_client().put_object(Bucket=bucket, Key=key, Body=data)


@contextmanager
def in_front_of(upstream: str, **options: Any) -> Iterator[FaultyStore]:
    """A faulty store which the AWS variables of this process, and so of its children, point to.

    Args:
        upstream: URL of the S3 server.
        options: of `FaultyStore`.
    """
    with FaultyStore(upstream, **options) as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield store
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
