"""C2PA: a signed manifest inside the MP4 says what made it; any change of the clip breaks the signature.

Needs the extra `c2pa`. Files are read and written by the library of the Content Authenticity Initiative; nothing is
fetched, but the time of signing where a timestamp authority is named.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import c2pa
import numpy as np
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from actors.credentials import Credentials, SigningError
from actors.muxing import ClipMuxer
from actors.origin import DIGITAL_SOURCE_TYPE, GENERATOR
from actors.redaction import redact
from actors.storage import read_bytes

logger = logging.getLogger(__name__)

_MIME_TYPE = "video/mp4"
_OF_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_MIN_RSA_BITS = 2048
_WAITS_S = (1.0, 4.0, 16.0)
"""Between tries, where a timestamp authority is asked: it may fail for a moment."""
_TRIAL = {
    "claim_generator_info": [{"name": GENERATOR}],
    "assertions": [
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}]},
        }
    ],
}


class ClipSigner:
    """Signs MP4s; several threads may do so at once.

    Made, it has signed a clip of one frame: what the library refuses is told before there is anything to lose.

    Args:
        credentials: what to sign with; the algorithm follows from the key.

    Raises:
        StorageError: a file is missing, forbidden or out of reach.
        ValueError: one line with the setting that is wrong: no PEM, an encrypted key, a kind of key that C2PA does not
            know, a key of another certificate, a certificate out of its time or not made for signing, a timestamp
            authority that does not answer.
    """

    def __init__(self, credentials: Credentials):
        about_key = f"setting provenance.private_key={redact(credentials.private_key)!r}"
        about_certificate = f"setting provenance.certificate={redact(credentials.certificate)!r}"
        chain = _chain(read_bytes(credentials.certificate), about_certificate)
        chain_pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
        algorithm, key_pem = _key(read_bytes(credentials.private_key), chain[0], about_key)
        trial = _smallest_clip()

        def tried(timestamp_url: str | None, about: str) -> c2pa.Signer:
            try:
                encoded = None if timestamp_url is None else timestamp_url.encode()
                signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain_pem, key_pem, encoded))
                _sign(signer, trial, _TRIAL)
            except c2pa.C2paError as error:
                raise ValueError(f"{about}: nothing can be signed with it: {_reason(error)}") from error
            return signer

        self._signer = tried(None, about_certificate)
        self._waits_s: tuple[float, ...] = ()
        if (url := credentials.timestamp_authority) is not None:
            self._signer = tried(url, f"setting provenance.timestamp_authority={redact(url)!r}")
            self._waits_s = _WAITS_S

    def sign(self, mp4: bytes, claims: Mapping[str, Any]) -> bytes:
        """Give the MP4 with a manifest in front of its index.

        Args:
            mp4: content of the file.
            claims: definition of the manifest, see `actors.origin.Origin.claims`.

        Raises:
            SigningError: the certificate has expired meanwhile, or the timestamp authority does not answer.
        """
        for wait_s in (*self._waits_s, None):
            try:
                return _sign(self._signer, mp4, claims)
            except c2pa.C2paError as error:
                reason = f"a clip cannot be signed: {_reason(error)}"
                if wait_s is None:
                    raise SigningError(reason) from error
                logger.warning("%s; tried again in %g s", reason, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last try ends the loop")


def _sign(signer: c2pa.Signer, mp4: bytes, claims: Mapping[str, Any]) -> bytes:
    signed = io.BytesIO()
    with c2pa.Builder(dict(claims)) as builder:
        builder.sign(signer, _MIME_TYPE, io.BytesIO(mp4), signed)
    return signed.getvalue()


def _chain(pem: bytes, about: str) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{about}: must hold certificates in PEM, the signer's first") from error
    now, first, last = datetime.now(UTC), chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if not first <= now <= last:
        raise ValueError(f"{about}: is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and not now")
    return chain


def _key(pem: bytes, certificate: x509.Certificate, about: str) -> tuple[str, bytes]:
    """Algorithm, as the library names it, and the key as it takes it; messages say nothing of the key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(f"{about}: is encrypted, which is not possible here: store it where few may read") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{about}: must hold a private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _OF_CURVES:
        algorithm = _OF_CURVES[key.curve.name]
    elif isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
        algorithm = "ps256"
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    else:
        raise ValueError(f"{about}: must be of P-256, P-384, P-521, Ed25519, or RSA of {_MIN_RSA_BITS} bits or more")
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{about}: is not the key of the certificate, which comes first in its file")
    return algorithm, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _smallest_clip() -> bytes:
    width, height = 64, 64
    with ClipMuxer(width, height) as muxer:
        muxer.write_frames(np.zeros((1, height * 3 // 2, width), np.uint8))
        muxer.write_audio(np.zeros((2, 1024), np.float32))
        return muxer.finish()


def _reason(error: c2pa.C2paError) -> str:
    return redact(" ".join(str(error).split()))
