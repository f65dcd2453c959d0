import os
import shutil

import pytest


@pytest.fixture(scope="session")
def espeak() -> None:
    """espeak-ng is a Debian package: without it these tests are left out, but never where the whole is checked."""
    if shutil.which("espeak-ng") is None:
        if os.environ.get("CI"):
            pytest.fail("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
        pytest.skip("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
