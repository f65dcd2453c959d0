"""A download from a store that fails now and then."""

import os

import pytest

from actors import local_copy as module
from actors import storage_faults
from actors.local_copy import local_copy
from actors.storage import join, write_atomically
from actors.storage_faults import Patience
from tests.s3 import in_front_of


@pytest.mark.slow
def test_a_download_goes_on_where_a_tenth_of_all_calls_fails(s3_endpoint, s3_bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage_faults, "PATIENCE", Patience(first_wait_s=0.05, longest_wait_s=0.4, answer_s=1.0))
    monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    data = os.urandom(100_000)
    with in_front_of(s3_endpoint) as store:
        write_atomically(join(s3_bucket, "m/a"), data)
        store.fraction = 0.1
        assert (local_copy(join(s3_bucket, "m"), tmp_path) / "a").read_bytes() == data
        assert store.counts["cut_body"] > 0
