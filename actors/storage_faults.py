"""What goes wrong with a store: which faults pass by themselves, which call for fresh credentials, which are final.

The S3 library repeats single calls a few times. Here whole operations are repeated, on any store and for longer: all of
ours can be done twice. Between tries lies a growing, random wait, so that many actors do not come back at once.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from actors.redaction import redact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Fault = Literal["missing", "forbidden", "invalid", "passing", "credentials", "full"]


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for.

    Attributes:
        limit_s: no try begins later than this after the first that failed.
        credentials_limit_s: the same where the store does not accept the credentials.
        first_wait_s: before the second try, at most; doubled from try to try.
        longest_wait_s: where doubling ends.
        answer_s: how long S3 may keep silent in a call; the library makes three of them before a try has failed.
    """

    limit_s: float = 60.0
    credentials_limit_s: float = 20.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    answer_s: float = 15.0


PATIENCE = Patience()


class StorageError(OSError):
    """Something under a URL is missing, forbidden or not valid; the message is one line that names the URL.

    This class itself speaks of that one file: others may be fine. What is wrong with the store has its own below.
    """


class StoreUnavailableError(StorageError):
    """The store is out of reach after all tries, or full: nothing under it can be read or written for now."""


class CredentialsError(StoreUnavailableError):
    """The store does not know the credentials, or they have expired, and no fresh ones came while it was tried."""


# Codes that S3 and its kin give; https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CREDENTIALS_CODES = {
    "400",  # to a HEAD, whose answer has no room for a code: what an expired token gives there
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}
_FULL_CODES = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
_PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",  # an upload in parts whose end was done, but its answer lost
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_PASSING_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_NO_CREDENTIALS = (
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.SSOError,
    boto.TokenRetrievalError,
)
_PASSING = (
    aiohttp.ClientError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    ConnectionError,
    ResponseParserError,  # an answer that a gateway on the way made up
    TimeoutError,
)
_KNOWN = (
    OSError,
    ValueError,
    ImportError,
    NotImplementedError,
    aiohttp.ClientError,
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
)


def s3_code(error: BaseException) -> str:
    """The code of an S3 store's answer behind an error, such as "SlowDown" or "404"; "" where there was none."""
    answer = _s3_answer(error)
    return str(answer.get("Error", {}).get("Code", "")) if answer else ""


def diagnose(error: BaseException) -> Fault:
    """What kind of fault an exception of a file system is; only "passing" and "credentials" may be gone soon."""
    answer = _s3_answer(error)
    if answer is not None:
        fault = _diagnose_answer(s3_code(error), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if fault is not None:
            return fault
    if isinstance(error, aiohttp.ClientResponseError):
        return _diagnose_answer("", error.status) or "invalid"
    if isinstance(error, _NO_CREDENTIALS):
        return "credentials"
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError):
        return "forbidden"
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL_ERRNOS:
        return "full"
    if isinstance(error, socket.gaierror):
        return "passing" if number == socket.EAI_AGAIN else "invalid"
    # aiohttp: an address that is none is a ValueError, too.
    is_passing = isinstance(error, _PASSING) and not isinstance(error, ValueError)
    return "passing" if is_passing or (answer is None and number in _PASSING_ERRNOS) else "invalid"


def _s3_answer(error: BaseException) -> dict[str, Any] | None:
    """s3fs turns a store's answers into errors of Python, and keeps them as the cause."""
    for found in (error, error.__cause__):
        if isinstance(found, boto.ClientError):
            return found.response
    return None


def _diagnose_answer(code: str, status: int) -> Fault | None:
    if code in _CREDENTIALS_CODES:
        return "credentials"
    if code in _FULL_CODES or status == 507:
        return "full"
    if code in _PASSING_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return "passing"
    final: dict[int, Fault] = {401: "forbidden", 403: "forbidden", 404: "missing"}
    return final.get(status)


def persist(
    action: str, url: str, fs: Any, operation: Callable[[], Result], patience: Patience | None = None
) -> Result:
    """Do something to a store, again and again while its faults are of the passing kind.

    Args:
        action: "read", "write" and so on, for the message.
        url: what it is done to.
        fs: fsspec's file system; an S3 one gets fresh credentials where it needs some.
        operation: harmless when it is done twice.
        patience: None: `PATIENCE`.

    Raises:
        StorageError: the file is missing, forbidden or not valid, at the first try.
        StoreUnavailableError: the store is full, or out of reach to the last try.
        CredentialsError: the store does not accept the credentials to the last try.
    """
    patience = patience or PATIENCE
    first_failed: float | None = None
    refused_client: Any = None
    num_tries = 0
    while True:
        num_tries += 1
        client = None
        try:
            if "s3" in fs.protocol:
                if refused_client is not None:
                    _renew_client(fs, refused_client)
                client = fs.s3
            return operation()
        except StorageError:
            raise
        except _KNOWN as error:
            fault = diagnose(error)
            now = time.monotonic()
            first_failed = now if first_failed is None else first_failed
            limit_s = {"passing": patience.limit_s, "credentials": patience.credentials_limit_s}.get(fault, 0.0)
            longest_s = min(patience.longest_wait_s, patience.first_wait_s * 2 ** min(num_tries - 1, 30))
            wait_s = _jitter.uniform(longest_s / 2, longest_s)
            if now + wait_s - first_failed > limit_s:
                tried_s = now - first_failed if fault in ("passing", "credentials") else 0.0
                raise _named(error, fault, action, url, num_tries, tried_s) from error
            refused_client = client if fault == "credentials" else None
            level = logging.WARNING if num_tries == 1 else logging.DEBUG
            what = redact(f"cannot {action} {url} for now")
            logger.log(level, "%s, trying for up to %.0f s: %s", what, limit_s, _told(error))
            time.sleep(wait_s)


_jitter = random.Random()  # not the global one, which others seed
_renewing = threading.Lock()


def _renew_client(fs: Any, refused_client: Any) -> None:
    """A new client looks for credentials anew; of the threads that share `fs`, the first makes it."""
    with _renewing:
        if fs.s3 is refused_client:
            fs.connect(refresh=True)


@contextmanager
def naming_the_url(action: str, url: str) -> Iterator[None]:
    """Turn what the many file systems raise into one line, see `persist`; nothing is tried twice."""
    try:
        yield
    except StorageError:
        raise
    except _KNOWN as error:
        raise _named(error, diagnose(error), action, url) from error


def _named(
    error: BaseException, fault: Fault, action: str, url: str, num_tries: int = 1, tried_s: float = 0.0
) -> StorageError:
    told, what = _told(error), redact(f"cannot {action} {url}")
    tries = f" after {num_tries} tries in {tried_s:.0f} s" if num_tries > 1 and tried_s else ""
    if fault == "missing":
        is_news = str(error) not in str(url) and f"'{url}'" not in str(error)
        return StorageError(f"{what}: not found" + (f" ({told})" if is_news else ""))
    if fault == "forbidden":
        return StorageError(f"{what}: access denied ({told})")
    if fault == "full":
        return StoreUnavailableError(f"{what}: no space left ({told})")
    if fault == "credentials":
        return CredentialsError(f"{what}: credentials are missing, expired or unknown{tries} ({told})")
    if fault == "passing":
        return StoreUnavailableError(f"{what}: the store is out of reach{tries} ({told})")
    return StorageError(f"{what}: {told}")


def _told(error: BaseException) -> str:
    answer = _s3_answer(error)
    if answer is not None and "Error" in answer:
        text = f"{answer['Error'].get('Code', '')}: {answer['Error'].get('Message', '')}"
    else:
        text = str(error)
    return " ".join(redact(text).split()) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
