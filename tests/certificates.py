"""A certificate authority for tests, and what it issues to sign clips with."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.credentials import Credentials


def _name(common_name: str) -> x509.Name:
    pairs = [(NameOID.ORGANIZATION_NAME, "Tests"), (NameOID.COMMON_NAME, common_name)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    names += " crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | allowed))


def pem_of(key, password: bytes | None = None, form=PrivateFormat.PKCS8) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, form, encryption)


class Authority:
    """A root and what it issues; signers' certificates are as C2PA's specification has them (certificate profiles)."""

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self._key.public_key(), "root", timedelta(days=-400), timedelta(days=400))
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, key, begins=timedelta(days=-30), ends=timedelta(days=30), purpose="EMAIL_PROTECTION") -> bytes:
        """A signer's certificate as PEM, this one's behind it."""
        purposes = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, purpose)])
        # Of those that attest times RFC 3161 wants it critical.
        builder = self._builder(key.public_key(), "signer", begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(purposes, critical=purpose == "TIME_STAMPING")
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM) + self.pem.encode()

    def credentials(self, folder: Path, key=None, **validity) -> Credentials:
        """Write a signer's certificate and key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return written(folder, self.issue(key, **validity), pem_of(key))

    def trusting(self) -> c2pa.Context:
        """For readers that trust whom this one trusts."""
        return c2pa.Context.from_dict({"trust": {"trust_anchors": self.pem}})

    def _builder(self, public_key, name, begins, ends) -> x509.CertificateBuilder:
        now, issuer = datetime.now(UTC), self._key.public_key()
        builder = x509.CertificateBuilder(_name("root"), _name(name), public_key, x509.random_serial_number())
        builder = builder.not_valid_before(now + begins).not_valid_after(now + ends)
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
        return builder.add_extension(identifier, critical=False).add_extension(of_issuer, critical=False)


def written(folder: Path, certificate: bytes, private_key: bytes) -> Credentials:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chain.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(private_key)
    return Credentials(str(folder / "chain.pem"), str(folder / "key.pem"))
