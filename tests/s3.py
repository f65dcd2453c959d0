"""What another machine does to the bucket under test."""

import botocore.session


def s3_client():
    """A client of its own, as another machine would be."""
    return botocore.session.get_session().create_client("s3")


def split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def put(url: str, data: bytes) -> None:
    bucket, key = split(url)
    s3_client().put_object(Bucket=bucket, Key=key, Body=data)
