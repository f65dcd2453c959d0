"""Reference images of campaigns and recipes: looked for before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from actors.redaction import redact
from actors.references import AllowedReferences, ReferenceRefused
from actors.storage import exists


def is_there(url: str) -> bool:
    """Whether there is an image, as far as its store tells; web servers are asked by a stage that guards itself."""
    return url.startswith(("http://", "https://")) or exists(url)


def find_image(
    reference: str, references: AllowedReferences, folder_url: str, exists: Callable[[str], bool] = is_there
) -> str:
    """Where an image lies.

    Args:
        reference: as written.
        references: where images may lie.
        folder_url: where relative paths start.
        exists: whether it is there.

    Raises:
        ValueError: it may not be read, or is not there.
    """
    try:
        url = references.resolve(reference, folder_url)
    except ReferenceRefused as error:
        raise ValueError(str(error)) from error
    if not exists(url):
        raise ValueError(f"is not there: {redact(url)}")
    return url
