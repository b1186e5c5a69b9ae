"""A shipped bundle with an INT8 encoder, small enough to measure in a test."""

from __future__ import annotations

import pytest

from service.bundle.store import SHIPPED, Bundle, open_bundle


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    return open_bundle(SHIPPED / "fight")
