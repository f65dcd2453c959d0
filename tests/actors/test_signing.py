"""Clips signed with a certificate of the tests' own, read again by the library, and read with a byte changed."""

import io
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import av
import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat

import actors.signing
from actors.credentials import Credentials, SigningError
from actors.fingerprint import LaneFingerprint
from actors.media import hash_media, probe
from actors.origin import DIGITAL_SOURCE_TYPE, Origin
from actors.request import ClipRequest
from tests.certificates import Authority, pem_of, written
from tests.media_files import colour_bars, make_clip, speech_like

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORIGIN = Origin("0.1.0", LaneFingerprint("lane"))
REQUEST = ClipRequest.model_validate({"id": "clip-1", "prompt": "x", "language": "de"})
CLAIMS = ORIGIN.claims(REQUEST, MADE_AT)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def signer(authority, tmp_path_factory):
    return authority.credentials(tmp_path_factory.mktemp("credentials")).signer()


@pytest.fixture(scope="module")
def clip():
    tags = ORIGIN.tags(REQUEST, MADE_AT)
    return make_clip(colour_bars(30), speech_like(30 * 1764), metadata=tags)


@pytest.fixture(scope="module")
def signed(signer, clip):
    return signer.sign(clip, CLAIMS)


def verdict(authority, mp4):
    """State of a clip's manifest, and what the library found wrong."""
    with c2pa.Reader("video/mp4", io.BytesIO(mp4), context=authority.trusting()) as reader:
        results = reader.get_validation_results()["activeManifest"]
        return reader.get_validation_state(), [failure["code"] for failure in results["failure"]]


def test_a_signed_clip_is_trusted_by_who_trusts_its_authority(authority, signed):
    assert verdict(authority, signed) == ("Trusted", [])
    assert verdict(Authority(), signed) == ("Valid", ["signingCredential.untrusted"])


def test_the_manifest_says_what_made_the_clip(authority, signed):
    with c2pa.Reader("video/mp4", io.BytesIO(signed), context=authority.trusting()) as reader:
        manifest = reader.get_active_manifest()
    (generator,) = manifest["claim_generator_info"]
    assert (generator["name"], generator["version"]) == ("magihuman-ray", "0.1.0")
    assert manifest["title"] == "clip-1"
    said = {assertion["label"]: assertion for assertion in manifest["assertions"]}
    (action,) = said["c2pa.actions.v2"]["data"]["actions"]
    assert (action["action"], action["when"]) == ("c2pa.created", "2026-01-02T03:04:05Z")
    assert action["digitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert action["softwareAgent"] == {"name": "magihuman-ray", "version": "0.1.0"}
    assert said["cawg.metadata"]["data"]["dc:identifier"] == "clip-1"
    assert said["cawg.metadata"]["data"]["Iptc4xmpExt:AISystemVersionUsed"] == "lane"
    assert said["cawg.metadata"]["created"], "the signer answers for it"


PLACES = {
    "of the manifest": lambda mp4: mp4.index(b"clip-1"),
    "of a tag": lambda mp4: mp4.index(b"AI-generated", mp4.index(b"moov")),
    "of the index": lambda mp4: mp4.index(b"stsz") + 30,
    "of the first packet": lambda mp4: mp4.index(b"mdat") + 10,
    "in the middle": lambda mp4: (mp4.index(b"mdat") + len(mp4)) // 2,
    "at the end": lambda mp4: len(mp4) - 1,
}


def is_broken(authority, mp4):
    try:
        return verdict(authority, mp4)[0] == "Invalid"
    except c2pa.C2paError:
        return True  # no MP4 any more, or no manifest


def changed(mp4, place):
    return mp4[:place] + bytes([mp4[place] ^ 1]) + mp4[place + 1 :]


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_byte_breaks_the_signature(authority, signed, place):
    state, failures = verdict(authority, changed(signed, PLACES[place](signed)))
    assert state == "Invalid"
    assert failures


@pytest.mark.slow
def test_no_byte_of_index_and_media_can_be_changed(authority, signed):
    places = range(signed.index(b"moov") - 4, len(signed), 41)
    assert len(places) > 500
    assert [place for place in places if not is_broken(authority, changed(signed, place))] == []


def test_a_clip_cut_or_added_to_is_not_valid(authority, signed):
    for other in (signed[:-1], signed + b"\0\0\0\x09mdat\0", signed[: signed.index(b"mdat") + 4]):
        assert is_broken(authority, other)


def test_without_a_manifest_there_is_nothing_to_verify(authority, clip):
    with pytest.raises(c2pa.C2paError.ManifestNotFound):
        verdict(authority, clip)


def decoded(mp4):
    with av.open(io.BytesIO(mp4)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    with av.open(io.BytesIO(mp4)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(sound, axis=1)


def test_a_signed_clip_plays_as_before_and_from_its_beginning(clip, signed):
    assert probe(signed) == probe(clip)
    assert hash_media(signed) == hash_media(clip)
    for before, after in zip(decoded(clip), decoded(signed), strict=True):
        np.testing.assert_array_equal(after, before)
    assert 0 < signed.find(b"moov") < signed.find(b"mdat")
    with av.open(io.BytesIO(clip)) as before, av.open(io.BytesIO(signed)) as after:
        assert after.metadata == before.metadata


def test_several_threads_sign_at_once(authority, signer, clip):
    with ThreadPoolExecutor(4) as pool:
        mp4s = list(pool.map(lambda _: signer.sign(clip, CLAIMS), range(16)))
    assert {verdict(authority, mp4)[0] for mp4 in mp4s} == {"Trusted"}


KEYS = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
def test_the_algorithm_follows_from_the_key(authority, clip, tmp_path, kind):
    signer = authority.credentials(tmp_path, KEYS[kind]()).signer()
    assert verdict(authority, signer.sign(clip, CLAIMS)) == ("Trusted", [])


def test_a_key_as_openssl_writes_it_will_do(authority, clip, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = pem_of(key, form=PrivateFormat.TraditionalOpenSSL)
    assert pem.startswith(b"-----BEGIN EC PRIVATE KEY")
    signer = written(tmp_path, authority.issue(key), pem).signer()
    assert verdict(authority, signer.sign(clip, CLAIMS))[0] == "Trusted"


def refused(credentials):
    with pytest.raises(ValueError, match="setting provenance") as caught:
        credentials.signer()
    message = str(caught.value)
    assert "\n" not in message
    assert "PRIVATE KEY" not in message
    return message


DAY = timedelta(days=1)


@pytest.mark.parametrize(("begins", "ends"), [(-9 * DAY, -DAY), (DAY, 9 * DAY)])
def test_a_certificate_out_of_its_time_is_refused(authority, tmp_path, begins, ends):
    credentials = authority.credentials(tmp_path, begins=begins, ends=ends)
    message = refused(credentials)
    assert message.startswith(f"setting provenance.certificate='{credentials.certificate}': is valid from 20")
    assert message.endswith("UTC, and not now")


def test_what_nothing_can_be_signed_with_is_refused_by_name(authority, tmp_path):
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain, about_key = authority.issue(key), f"setting provenance.private_key='{tmp_path / 'key.pem'}': "
    for pem, reason in (
        (pem_of(other), "is not the key of the certificate"),
        (pem_of(key, password=b"word"), "is encrypted"),
        (b"-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n", "must hold a private key in PEM"),
        (chain, "must hold a private key in PEM"),
        (pem_of(ec.generate_private_key(ec.SECP256K1())), "must be of P-256"),
        (pem_of(rsa.generate_private_key(65537, 1024)), "must be of P-256"),
    ):
        assert refused(written(tmp_path, chain, pem)).startswith(about_key + reason)
    about_certificate = f"setting provenance.certificate='{tmp_path / 'chain.pem'}': "
    for certificate, reason in (
        (b"no certificate", "must hold certificates in PEM"),
        (pem_of(key), "must hold certificates in PEM"),
        (authority.issue(key, purpose="SERVER_AUTH"), "nothing can be signed with it: Signature: "),
    ):
        assert refused(written(tmp_path, certificate, pem_of(key))).startswith(about_certificate + reason)
    with pytest.raises(OSError, match=r"absent\.pem"):
        Credentials(str(tmp_path / "absent.pem"), str(tmp_path / "key.pem")).signer()


def test_a_timestamp_authority_out_of_reach_is_refused_without_its_secrets(authority, tmp_path):
    credentials = authority.credentials(tmp_path)
    message = refused(replace(credentials, timestamp_authority="http://me:word@127.0.0.1:9/?token=0f3a"))
    assert message.startswith("setting provenance.timestamp_authority='http://***@127.0.0.1:9/?token=***': ")
    assert "word" not in message
    assert "0f3a" not in message


@pytest.fixture(scope="module")
def timestamp_authority(authority, tmp_path_factory):
    """URL of a server that attests times by OpenSSL's command line; the server's `answers` may be set to False."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("timestamps")
    key = rsa.generate_private_key(65537, 2048)
    own_pem = authority.issue(key, purpose="TIME_STAMPING").removesuffix(authority.pem.encode())
    (folder / "signer.pem").write_bytes(own_pem)
    (folder / "chain.pem").write_text(authority.pem)
    (folder / "key.pem").write_bytes(pem_of(key))
    settings = {
        "serial": folder / "serial",
        "signer_cert": folder / "signer.pem",
        "certs": folder / "chain.pem",
        "signer_key": folder / "key.pem",
        "signer_digest": "sha256",
        "default_policy": "1.2.3.4.1",
        "digests": "sha256, sha384, sha512",
        "accuracy": "secs:1",
        "ess_cert_id_alg": "sha256",
    }
    lines = ["[tsa]", "default_tsa = one", "[one]", *(f"{name} = {value}" for name, value in settings.items())]
    (folder / "openssl.cnf").write_text("\n".join(lines) + "\n")
    (folder / "serial").write_text("01\n")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            command = ["openssl", "ts", "-reply", "-config", "openssl.cnf", "-queryfile", "query", "-out", "answer"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            answer = (folder / "answer").read_bytes()
            self.send_response(200 if self.server.answers else 503)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answers = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_timestamp_is_asked_for_and_waited_for(authority, timestamp_authority, clip, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{timestamp_authority.server_port}/"
    credentials = replace(authority.credentials(tmp_path), timestamp_authority=url)
    signer = credentials.signer()
    mp4 = signer.sign(clip, CLAIMS)
    assert verdict(authority, mp4) == ("Trusted", [])
    with c2pa.Reader("video/mp4", io.BytesIO(mp4), context=authority.trusting()) as reader:
        attested = datetime.fromisoformat(reader.get_active_manifest()["signature_info"]["time"])
    assert abs(datetime.now(UTC) - attested) < timedelta(minutes=5)
    monkeypatch.setattr(timestamp_authority, "answers", False)
    waits_s = []
    monkeypatch.setattr(actors.signing.time, "sleep", waits_s.append)
    with pytest.raises(SigningError, match="a clip cannot be signed"):
        signer.sign(clip, CLAIMS)
    assert waits_s == [1, 4, 16]
    assert refused(credentials).startswith(f"setting provenance.timestamp_authority='{url}': ")


@pytest.mark.slow
def test_after_the_certificates_time_clips_hold_with_a_timestamp_alone(authority, timestamp_authority, clip, tmp_path):
    plain = authority.credentials(tmp_path, ends=timedelta(seconds=4))
    url = f"http://127.0.0.1:{timestamp_authority.server_port}/"
    signer, stamping = plain.signer(), replace(plain, timestamp_authority=url).signer()
    mp4, stamped = signer.sign(clip, CLAIMS), stamping.sign(clip, CLAIMS)
    assert verdict(authority, mp4)[0] == verdict(authority, stamped)[0] == "Trusted"
    time.sleep(5.5)  # the library gives it the second that has begun, too
    with pytest.raises(SigningError, match=r"^a clip cannot be signed: Signature: the certificate was not valid at"):
        signer.sign(clip, CLAIMS)
    assert verdict(authority, stamped) == ("Trusted", [])
    state, failures = verdict(authority, mp4)
    assert state == "Invalid"
    assert "signingCredential.expired" in failures
