"""No reference, however written, is read from elsewhere than allowed."""

import os

from hypothesis import example, given
from hypothesis import strategies as st

from actors.reference_files import read_reference
from actors.references import AllowedReferences, ReferenceRefused, canonical, folder_of
from actors.storage_faults import StorageError
from tests.hostile import outcome, repeatable, texts

PIECES = ["..", ".", "/", "//", "\\", "%2e%2e", "%2f", "@", ":", "::", "?", "#", "~", "a.png", "set", "secret", "s3://"]
PIECES += [
    "file://",
    "http://",
    "127.0.0.1",
    "bucket",
    "simplecache::",
    "zip://",
    "local:",
    "file:",
    " ",
    "\x00",
    "[",
    "]",
]
references = st.one_of(texts, st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join))
manifests = st.sampled_from(["/data/set/m.jsonl", "s3://bucket/in/m.jsonl", "https://host/in/m.jsonl"])


@repeatable(150)
@given(references, manifests)
def test_what_is_allowed_begins_with_what_is_allowed(reference, manifest_url):
    allowed = AllowedReferences.of_manifest(manifest_url)
    url, error = outcome(lambda: allowed.resolve(reference, folder_of(manifest_url)), ReferenceRefused)
    if error is not None:
        assert str(error)
        assert "\n" not in str(error)
        return
    assert url.startswith(allowed.prefixes)
    assert canonical(url) == url
    assert allowed.refusal(url) is None
    assert ".." not in url.partition("?")[0].split("/")
    assert "::" not in url or url.startswith("https://")


def test_no_reference_reads_a_file_beside_the_folder(tmp_path):
    folder = tmp_path / "set"
    (folder / "a.png").parent.mkdir()
    (folder / "a.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "set").symlink_to("..")
    (folder / "secret").symlink_to("../secret")
    allowed = AllowedReferences.of_manifest(f"{folder}/m.jsonl")
    found = set()

    @repeatable(150)
    @given(references)
    @example("a.png")
    @example("secret")
    @example("set/secret")
    def read(reference):
        for written in (reference, f"{folder}/{reference}", f"file://{tmp_path}/{reference}"):
            try:
                found.add(read_reference(allowed.resolve(written, str(folder)), 100, allowed))
            except (ReferenceRefused, StorageError):
                continue

    before = os.getcwd()
    read()
    assert found == {b"picture"}
    assert os.getcwd() == before
