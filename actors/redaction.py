"""What a URL may say of itself in logs, records and messages: never a password, a signature or a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_USER = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_SECRET = re.compile(
    r"""([?&;][^\s=&;?#'"]*(?:signature|credential|token|secret|passw|apikey|api_key|accesskey|access_key|auth|sig|key)
        [^\s=&;?#'"]*=)[^\s&;#'"]+""",
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str) -> str:
    """Hide user names, passwords and secret query values of every URL in a text; all else stays as it is.

    >>> redact("https://me:word@host/a.png?X-Amz-Signature=0f3a&versionId=7")
    'https://***@host/a.png?X-Amz-Signature=***&versionId=7'
    """
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def redact_values(values: Any) -> Any:
    """The same for every text in JSON-like values."""
    if isinstance(values, str):
        return redact(values)
    if isinstance(values, Mapping):
        return {name: redact_values(value) for name, value in values.items()}
    if isinstance(values, list):
        return [redact_values(value) for value in values]
    return values
