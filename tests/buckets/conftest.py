"""One plain emulator for the tests of a module."""

import pytest

from tests.buckets.emulator import Emulator


@pytest.fixture(scope="module")
def served():
    with Emulator(["bucket", "other"]) as emulator:
        yield emulator
