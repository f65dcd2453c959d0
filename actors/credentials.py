"""Where that lies with which clips are signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.signing import ClipSigner


class SigningError(Exception):
    """A clip could not be signed, and no clip is at fault; one line."""


@dataclass(frozen=True)
class Credentials:
    """Addresses; the key itself is read by whoever signs, and goes to no other process.

    Attributes:
        certificate: URL of the signer's certificate (PEM), behind it those between it and the root.
        private_key: URL of its key (PEM, not encrypted).
        timestamp_authority: URL of a server (RFC 3161) that attests when a clip was signed; None: nobody does.
    """

    certificate: str
    private_key: str
    timestamp_authority: str | None = None

    def signer(self) -> ClipSigner:
        """Read them and try them out, see `actors.signing.ClipSigner`.

        Raises:
            ImportError: the extra `c2pa` is not installed.
            StorageError: a file is missing, forbidden or out of reach.
            ValueError: nothing can be signed with them.
        """
        from actors.signing import ClipSigner  # its libraries come with an extra

        return ClipSigner(self)
