"""The drift index: silent where nothing changes, loud where something does, and one formula checked by hand."""

from __future__ import annotations

import math
import random
from statistics import quantiles

import pytest

from service.drift import ENOUGH, SAMPLE, Drift, Shift, stability_index


def fed(drift: Drift, answers: int, *, seed: int, weights: tuple[float, ...] = (5, 3, 2), sure: float = 5) -> Drift:
    chance = random.Random(seed)
    for _ in range(answers):
        drift.note(chance.choices(range(len(weights)), weights)[0], chance.betavariate(sure, 2))
    return drift


def test_the_index_by_hand() -> None:
    p, q = (60.5 / 101, 40.5 / 101), (80.5 / 101, 20.5 / 101)
    expected = (p[0] - q[0]) * math.log(p[0] / q[0]) + (p[1] - q[1]) * math.log(p[1] / q[1])
    assert stability_index((80, 20), (60, 40)) == pytest.approx(expected)
    assert stability_index((10, 20), (10, 20)) == 0
    assert math.isfinite(stability_index((10, 0), (0, 10)))


def test_nothing_is_said_until_both_samples_are_full() -> None:
    drift = Drift(sample=100)
    for count in (99, 1, 99):
        fed(drift, count, seed=count)
        assert drift.of_classes is None
        assert drift.of_probability is None
    fed(drift, 1, seed=1)
    assert drift.of_classes is not None
    assert drift.of_probability is not None


@pytest.mark.parametrize("seed", range(5))
def test_the_same_traffic_stays_below_a_tenth(seed: int) -> None:
    drift = fed(Drift(), 5000, seed=seed)
    assert 0 <= drift.of_classes < 0.1  # type: ignore[operator]
    assert 0 <= drift.of_probability < 0.1  # type: ignore[operator]


def test_other_classes_and_less_certainty_are_told_apart() -> None:
    drift = fed(fed(Drift(), 2000, seed=1), 1000, seed=2, weights=(2, 3, 5))
    assert drift.of_classes > 0.25  # type: ignore[operator]
    assert drift.of_probability < 0.1  # type: ignore[operator]
    drift = fed(fed(Drift(), 2000, seed=1), 1000, seed=2, sure=2)
    assert drift.of_classes < 0.1  # type: ignore[operator]
    assert drift.of_probability > 0.25  # type: ignore[operator]


def test_it_settles_when_traffic_is_again_as_it_was() -> None:
    drift = fed(fed(fed(Drift(), 1000, seed=1), 1000, seed=2, weights=(1, 1, 8)), 1000, seed=3)
    assert drift.of_classes < 0.1  # type: ignore[operator]


def test_a_class_that_never_occurred_before_is_seen() -> None:
    drift = fed(Drift(sample=200), 200, seed=1)
    for _ in range(200):
        drift.note(77, 0.9)
    assert drift.of_classes > 1  # type: ignore[operator]


def test_a_model_that_is_always_as_sure_breaks_nothing() -> None:
    drift = Drift(sample=50)
    for _ in range(100):
        drift.note(0, 1.0)
    assert (drift.of_classes, drift.of_probability) == (0, 0)
    for _ in range(50):
        drift.note(0, 0.3)
    assert drift.of_probability > 1  # type: ignore[operator]


def brightness(chance: random.Random) -> float:
    return min(255.0, max(0.0, chance.gauss(120, 25)))


def shift(*, seed: int = 0) -> Shift:
    """Against a calibration of 500 frames."""
    chance = random.Random(seed)
    known = [brightness(chance) for _ in range(500)]
    return Shift((min(known), *quantiles(known, n=10), max(known)))


def shown(against: Shift, frames: int, *, seed: int, darker: float = 0) -> Shift:
    chance = random.Random(seed)
    for _ in range(frames):
        against.note(max(0.0, brightness(chance) - darker))
    return against


def test_nothing_is_said_of_inputs_until_there_are_enough() -> None:
    against = shown(shift(), ENOUGH - 1, seed=1)
    assert (against.index, against.outside) == (None, None)
    shown(against, 1, seed=2)
    assert against.index is not None
    assert against.outside is not None


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("frames", [ENOUGH, SAMPLE, 3 * SAMPLE])
def test_inputs_as_the_calibration_knew_them_stay_low(seed: int, frames: int) -> None:
    against = shown(shift(), frames, seed=seed)
    assert 0 <= against.index < (0.1 if frames > ENOUGH else 0.15)  # type: ignore[operator]
    assert against.outside < 0.03  # type: ignore[operator]


def test_a_camera_that_gets_darker_is_seen_and_forgotten_once_it_is_light_again() -> None:
    against = shown(shown(shift(), SAMPLE, seed=1), SAMPLE, seed=2, darker=25)
    assert against.index > 0.5  # type: ignore[operator]
    assert against.outside < 0.1, "most of it the calibration knew"  # type: ignore[operator]
    shown(against, SAMPLE, seed=3, darker=200)
    assert against.index > 2  # type: ignore[operator]
    assert against.outside > 0.95  # type: ignore[operator]
    shown(against, SAMPLE, seed=4)
    assert against.index < 0.1  # type: ignore[operator]
    assert against.outside < 0.03  # type: ignore[operator]


def test_a_calibration_whose_frames_are_alike_breaks_nothing() -> None:
    black = Shift((0.0,) * 8 + (10.0, 20.0, 30.0))  # of which eight tenths are the same
    chance = random.Random(1)
    for _ in range(SAMPLE):
        black.note(0.0 if chance.random() < 0.8 else chance.uniform(10, 30))
    assert black.index < 0.1  # type: ignore[operator]
    assert black.outside == 0
    even = Shift((100.0,) * 11)
    for _ in range(SAMPLE):
        even.note(100.0)
    assert (even.index, even.outside) == (pytest.approx(0, abs=0.01), 0)
    for _ in range(SAMPLE):
        even.note(101.0)
    assert even.index > 1, "what is brighter, too"  # type: ignore[operator]
    for _ in range(SAMPLE):
        even.note(99.0)
    assert even.index > 1  # type: ignore[operator]
    assert even.outside == 1
