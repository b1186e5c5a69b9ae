"""The digits' classifiers, learned once."""

from __future__ import annotations

import pytest

from tests.models.quantize.digits import Digits, learned


@pytest.fixture(scope="session")
def digits() -> Digits:
    return learned()


@pytest.fixture(scope="session")
def capped_digits() -> Digits:
    """With a Clip to 10⁶ in place of each ReLU: the same answers, but no channel can be made smaller behind it."""
    return learned(activation="Clip")
