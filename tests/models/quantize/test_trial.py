"""A trial's clips are spread over all that there are, and how far a network is from float is what NumPy finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.export.runtime import Runtime
from models.quantize.trial import Reference, Trial
from tests.models.quantize.drawn import Drawing, frames_of, mean_head, weights_of

CLASSES = 4


def numbered(count: int, frames: int) -> Trial:
    """Clip c holds frames whose pixels are 10·c + the number of the frame."""
    clips = [
        np.stack([np.full((4, 4, 3), 10 * clip + frame, np.uint8) for frame in range(frames)]) for clip in range(count)
    ]
    return Trial("val", tuple(clips), np.arange(count))


def pixels(trial: Trial) -> list[list[int]]:
    return [clip[:, 0, 0, 0].tolist() for clip in trial.clips]


def test_fewer_clips_are_spread_over_all_and_keep_their_classes() -> None:
    thinned = numbered(10, 2).thinned(clips=4, frames=None)
    assert pixels(thinned) == [[0, 1], [30, 31], [60, 61], [90, 91]]
    assert thinned.truth.tolist() == [0, 3, 6, 9]
    assert (thinned.split, thinned.frames) == ("val", 8)


def test_fewer_frames_are_spread_over_each_clip() -> None:
    thinned = numbered(2, 9).thinned(clips=8, frames=3)
    assert pixels(thinned) == [[1, 4, 7], [11, 14, 17]]


def test_no_clip_and_no_frame_is_taken_twice() -> None:
    thinned = numbered(3, 2).thinned(clips=32, frames=4)
    assert pixels(thinned) == [[0, 1], [10, 11], [20, 21]]
    assert thinned.truth.tolist() == [0, 1, 2]


def encoder() -> onnx.ModelProto:
    drawing = Drawing(seed=5)
    source = drawing.relu(drawing.conv("planes", 6, name="conv1"), name="act1")
    drawing.flat(drawing.conv(source, 8, name="conv2"), size=8, width=8)
    return drawing.model(features=["N", 8])


def shaken(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """Another network: every weight moves by about `by` of its size."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    random = np.random.default_rng(8)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith("/kernel"):
            values = numpy_helper.to_array(tensor)
            moved = values * (1 + by * random.normal(0, 1, values.shape))
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return changed


@pytest.fixture(scope="module")
def head() -> bytes:
    random = np.random.default_rng(6)
    dense, bias = random.normal(0, 3, (8, CLASSES)), np.zeros(CLASSES)
    return mean_head(dense.astype(np.float32), bias.astype(np.float32)).SerializeToString()


@pytest.fixture(scope="module")
def trial() -> Trial:
    """24 clips of one to five frames, more of them than go into one batch."""
    clips = tuple(frames_of(1 + number % 5, seed=number) // (1 + number % 3) for number in range(24))
    return Trial("val", clips, np.arange(24) % CLASSES)


def answered(model: onnx.ModelProto, head: bytes, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Features of all frames and probabilities of all clips, by onnxruntime clip after clip."""
    encode, decide = Runtime(model), Runtime(head)
    features = [encode(clip)["features"] for clip in trial.clips]
    return np.concatenate(features), np.concatenate([decide(part[None])["probabilities"] for part in features])


def test_a_network_is_as_good_as_itself(head: bytes, trial: Trial) -> None:
    model = encoder()
    found = Reference(model.SerializeToString(), head, trial).compare(model, exact=True)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert (found.top1_agreement, found.drop) == (1, 0)
    assert found.feature_cosine == pytest.approx(1, abs=1e-5)
    assert found.frames_per_s > 0


def test_the_reference_answers_clip_by_clip(head: bytes, trial: Trial) -> None:
    model = encoder()
    reference = Reference(model.SerializeToString(), head, trial)
    features, answers = answered(model, head, trial)
    assert reference.answers == pytest.approx(answers, abs=1e-5)
    assert [len(part) for part in reference.parts] == [len(clip) for clip in trial.clips]
    assert np.concatenate(reference.parts) == pytest.approx(features, abs=1e-5)
    assert reference.accuracy == (answers.argmax(axis=1) == trial.truth).mean()


def test_how_far_another_network_is_says_numpy(head: bytes, trial: Trial) -> None:
    model, other = encoder(), shaken(encoder(), 0.5)
    found = Reference(model.SerializeToString(), head, trial).compare(other, exact=True)
    (one, p), (two, q) = answered(model, head, trial), answered(other, head, trial)
    cosine = (one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-3)
    assert found.feature_cosine == pytest.approx(cosine.mean(), abs=1e-4)
    same = (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    accuracies = [(rows.argmax(axis=1) == trial.truth).mean() for rows in (p, q)]
    assert 0 < same < 1, "or this shows nothing"
    assert accuracies[0] != accuracies[1], "or this shows nothing"
    assert found.top1_agreement == same
    assert (found.accuracy, found.drop) == (accuracies[1], pytest.approx(accuracies[0] - accuracies[1]))


def test_the_farther_the_weights_move_the_more_the_answers_differ(head: bytes, trial: Trial) -> None:
    model = encoder()
    reference = Reference(model.SerializeToString(), head, trial)
    found = [reference.compare(shaken(model, by), exact=True).kl for by in (0.0, 0.05, 0.2, 0.8)]
    assert found == sorted(found)
    assert found[-1] > 10 * found[1]


def test_a_clip_network_has_no_features() -> None:
    drawing = Drawing(clips=True, seed=7)
    source = drawing.relu(drawing.conv("planes", 6, name="conv1", rank=3), name="act1")
    pooled = drawing.node("GlobalAveragePool", drawing.conv(source, 5, name="conv2", rank=3), name="pool")
    rows = drawing.node("Reshape", pooled, drawing.constant("flat", np.array([-1, 5])), name="flat")
    drawing.node("Softmax", rows, name="decides", out="probabilities", axis=-1)
    model = drawing.model(probabilities=["N", 5])
    trial = Trial("val", tuple(frames_of(3, seed=number) for number in range(6)), np.zeros(6, np.int64))
    reference = Reference(model.SerializeToString(), None, trial)
    wanted = Runtime(model)(np.stack(trial.clips))["probabilities"]
    assert reference.answers == pytest.approx(wanted, abs=1e-5)
    found = reference.compare(model)
    assert (found.feature_cosine, found.top1_agreement, found.drop) == (None, 1, 0)
    assert found.kl == pytest.approx(0, abs=1e-6)


def test_the_drawn_kernels_are_what_is_shaken() -> None:
    before, after = weights_of(encoder()), weights_of(shaken(encoder(), 0.5))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        "conv1/kernel",
        "conv2/kernel",
    }
