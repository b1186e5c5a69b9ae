"""What a recipe may say of its training, and what stands where it says nothing."""

import pytest
from pydantic import ValidationError

from models.schedule import Stage, Training


def test_a_whole_network_stops_early_and_a_head_does_not_unless_the_stage_says_so() -> None:
    assert Stage.model_validate({"cut": "frames", "epochs": 5, "rate": 1e-3}).patience == 10
    assert Stage.model_validate({"cut": "frames", "epochs": 5, "rate": 1e-3, "patience": 0}).patience == 0
    assert Stage.model_validate({"epochs": 5, "rate": 1e-3}).patience == 0


def test_a_warm_up_that_leaves_nothing_is_refused() -> None:
    assert Stage(epochs=5, rate=1e-3, warm_up=4.5).warm_up == 4.5
    with pytest.raises(ValidationError, match=r"warm_up = 5.0 leaves nothing of 5 epochs"):
        Stage(epochs=5, rate=1e-3, warm_up=5)


def test_gradients_are_clipped_in_one_way() -> None:
    stage = Stage(epochs=1, rate=1e-3)
    assert Training(stages=(stage,), clip_value=1.0).clip_norm is None
    with pytest.raises(ValidationError, match="clip_norm and clip_value are both given"):
        Training(stages=(stage,), clip_norm=1.0, clip_value=1.0)
