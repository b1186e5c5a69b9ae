"""Curves of trainings that go wrong in known ways, and of such that do not."""

import numpy as np
import pytest

from models.schedule import Stage
from models.training.advice import advise, out_of_memory
from models.training.checkpoint import History

STAGE = Stage(epochs=30, rate=3e-3, batch=8)


def history(loss: list[float], val: list[float] | None = None, accuracy: float = 0.7) -> History:
    val = val or []
    return History(loss=list(loss), val_loss=list(val), val_accuracy=[accuracy] * len(val))


def kinds(found: History, stage: Stage = STAGE) -> list[str]:
    return [advice.kind for advice in advise(found, stage=stage)]


def falling(epochs: int = 20, to: float = 0.2, noise: float = 0.0) -> list[float]:
    curve = to + (1.4 - to) * np.exp(-np.arange(epochs) / 5)
    return (curve * (1 + noise * np.random.default_rng(0).standard_normal(epochs))).tolist()


def test_a_training_as_it_should_be_needs_no_advice() -> None:
    assert kinds(history(falling(), falling(to=0.3))) == []
    assert kinds(history(falling(noise=0.03), falling(to=0.3, noise=0.03))) == []
    assert kinds(history(falling())) == []


def test_few_epochs_are_no_curve() -> None:
    assert kinds(history([1.0, 3.0, 1.0, 3.0], [1.0] * 4)) == []


def test_a_loss_that_goes_up_and_down_asks_for_a_lower_rate_and_a_larger_batch() -> None:
    curve = [1.0, 0.9, 1.3, 0.8, 1.4, 0.9, 1.2, 0.7, 1.3, 0.9, 1.1]
    (found,) = advise(history(curve), stage=STAGE)
    assert found.kind == "oscillating"
    assert "lower the stage's rate, 0.003" in str(found)
    assert "a larger batch than 8 (accumulate)" in str(found)


def test_small_noise_about_a_flat_loss_is_no_oscillation() -> None:
    curve = (0.05 * (1 + 0.03 * np.random.default_rng(1).standard_normal(20))).tolist()
    assert "oscillating" not in kinds(history(curve))


def test_a_loss_on_val_that_rises_while_that_of_training_falls_is_overfitting() -> None:
    val = [1.0, 0.8, 0.7, 0.72, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    (found,) = advise(history(falling(10, to=0.05), val), stage=STAGE)
    assert found.kind == "overfitting"
    assert str(found).startswith("the loss on val rose from 0.700 after epoch 3 to 1.200")
    assert "more augmentation, more dropout" in str(found)


def test_one_bad_last_epoch_is_no_overfitting() -> None:
    assert "overfitting" not in kinds(history(falling(), [*falling(19, to=0.3), 2.0]))


def test_a_score_that_stalls_while_training_goes_on_asks_for_augmentation_and_dropout() -> None:
    val = [0.9, 0.7, 0.6, *[0.61] * 9]
    (found,) = advise(history(falling(12, to=0.01), val), stage=STAGE)
    assert found.kind == "stalled"
    assert "more augmentation or dropout" in str(found)


def test_a_network_that_does_not_learn_asks_for_another_rate_and_a_deeper_cut() -> None:
    flat = history([0.6931] * 12, [0.693, *[0.6931] * 11], accuracy=0.5)
    (found,) = advise(flat, stage=STAGE)
    assert found.kind == "stalled"
    assert "another rate than 0.003" in str(found)
    assert "a deeper cut" in str(found)
    (whole,) = advise(flat, stage=STAGE.model_copy(update={"cut": "frames"}))
    assert "a deeper cut" not in str(whole)


def test_what_is_solved_has_not_stalled() -> None:
    assert kinds(history([0.01] * 12, [0.01, *[0.0101] * 11], accuracy=1.0)) == []
    rising = [0.1, 0.01, *[0.004] * 6, *[0.006] * 8]  # every clip of val is right all the same
    assert kinds(history(falling(16), rising, accuracy=1.0)) == []
    assert kinds(history(falling(16), rising, accuracy=0.9)) == ["overfitting"]


@pytest.mark.parametrize(
    ("stage", "frames", "expected"),
    [
        ({"batch": 8}, 16, "set batch = 4 and accumulate = 2, which trains alike, take fewer than 16 frames a clip"),
        ({"batch": 6, "accumulate": 2}, 1, "set batch = 3 and accumulate = 4, which trains alike, take smaller frames"),
        ({"batch": 1, "cut": "frames"}, 4, "take fewer than 4 frames a clip .*or freeze a part of the network"),
    ],
)
def test_memory_that_is_out_asks_for_accumulation_and_shorter_clips(
    stage: dict[str, object], frames: int, expected: str
) -> None:
    import re  # noqa: PLC0415 -- one line

    sentence = out_of_memory(STAGE.model_copy(update=stage), frames=frames)
    assert re.search(expected, sentence), sentence
