"""The architectures: pretrained where they say so, and right for every length of clip."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest

from models.errors import RecipeError, WeightsError
from models.recipe import Recipe
from models.zoo.cnn_lstm import CnnLstm
from models.zoo.efficientnet_lite import efficientnet_lite0
from models.zoo.image_classifier import ImageNetClassifier
from models.zoo.layers import CellMotion, TemporalDifference
from models.zoo.pooling import pooled
from models.zoo.torch_weights import read_torch_weights
from service.bundle.manifest import Input

IMAGENET = ImageNetClassifier(name="imagenet_classifier")


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    return IMAGENET.build(classes=1000, input=Input(height=224, width=224), frames=1, seed=0)


@pytest.mark.data
def test_the_imagenet_weights_know_photos(data: Path, classifier: keras.Model) -> None:
    """Float Keras on all 1,000, through the server's own decoding and resizing; the figure is in the recipe's header."""
    recipe = Recipe.read("imagenet")
    dataset = recipe.dataset(data)
    encoder, classify = classifier.get_layer("encode").layer, classifier.get_layer("classify")
    right = 0
    for start in range(0, 1000, 40):
        batch = dataset.samples[start : start + 40]
        clips = [dataset.load(photo, spec=recipe.input, sampling=recipe.sampling).frames for photo in batch]
        scores = classify(encoder.predict_on_batch(np.concatenate(clips).astype(np.float32)))
        right += int((np.asarray(scores).argmax(1) == np.array(dataset.class_ids(batch))).sum())
    assert len(dataset.samples) == 1000
    assert right >= 855


def test_a_clips_probabilities_are_the_average_over_its_frames(classifier: keras.Model) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224, 3)).astype(np.float32)
    whole = np.asarray(classifier(clip))
    single = np.concatenate([np.asarray(classifier(clip[:, i : i + 1])) for i in range(3)])
    assert whole[0] == pytest.approx(single.mean(0), abs=1e-5)
    assert whole.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_truncated_backbone_is_the_beginning_of_the_whole_one() -> None:
    whole, part = efficientnet_lite0(height=64, width=96), efficientnet_lite0(height=64, width=96, until="block7")
    assert part.output_shape == (None, 4, 6, 80)
    assert part.count_params() == 262_176
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.float32)
    inside = keras.Model(whole.input, whole.get_layer("block7_add").output)
    assert np.asarray(part(frames)) == pytest.approx(np.asarray(inside(frames)), abs=1e-4)


def test_what_the_backbone_does_not_have_is_named() -> None:
    with pytest.raises(RecipeError, match="no block 'block16'; choose block0 … block15, or top"):
        efficientnet_lite0(until="block16")
    with pytest.raises(RecipeError, match="no weights 'noisy'"):
        efficientnet_lite0(weights="noisy")
    with pytest.raises(RecipeError, match="1000 classes, not 10"):
        IMAGENET.build(classes=10, input=Input(height=224, width=224), frames=1, seed=0)


def test_cells_are_averages_of_their_part_of_the_frame() -> None:
    backbone = efficientnet_lite0(height=64, width=96, until="block7", weights=None)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.float32)
    maps = np.asarray(backbone(frames))
    cells = np.asarray(pooled(backbone, grid=(2, 3))(frames)).reshape(2, 2, 3, 80)
    assert cells[:, 1, 2] == pytest.approx(maps[:, 2:, 4:].mean((1, 2)), abs=1e-5)
    with pytest.raises(RecipeError, match="3×3 cells does not divide maps of 4×6"):
        pooled(backbone, grid=(3, 3))


def test_temporal_differences_are_zero_for_the_first_frame() -> None:
    features = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    found = np.asarray(TemporalDifference()(features))
    assert np.array_equal(found[..., :3], features)
    assert not found[:, 0, 3:].any()
    assert found[:, 1:, 3:] == pytest.approx(np.diff(features, axis=1), abs=1e-6)


def test_the_motion_of_cells_is_the_logarithm_of_mean_and_largest_change() -> None:
    features = np.random.default_rng(0).normal(size=(2, 4, 6 * 5)).astype(np.float32)
    found = np.asarray(CellMotion(6)(features))
    change = np.abs(np.diff(features.reshape(2, 4, 6, 5), axis=1))
    expected = np.log(1 + 2 * np.concatenate([change.mean(2), change.max(2)], axis=-1))
    assert not found[:, 0].any()
    assert found[:, 1:] == pytest.approx(expected, abs=1e-4)


# Keras warns that attention over one frame is 1, which is what it should be.
@pytest.mark.filterwarnings(r"ignore:(.|\n)*softmax over axis:UserWarning")
@pytest.mark.parametrize("change", ["none", "differences", "motion"])
@pytest.mark.parametrize("readout", ["last", "mean", "max", "mean_max", "attention"])
def test_a_cnn_lstm_takes_clips_of_any_length_and_comes_back_from_its_file(
    tmp_path: Path, change: str, readout: str
) -> None:
    parameters = CnnLstm.model_validate(
        {
            "name": "cnn_lstm",
            "until": "block2",
            "weights": "none",
            "grid": (2, 3),
            "change": change,
            "projection": 5,
            "units": 4,
            "readout": readout,
            "weight_decay": 1e-3,
        }
    )
    model = parameters.build(classes=3, input=Input(height=32, width=48), frames=1, seed=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for frames in (1, 4):
        clips = np.random.default_rng(frames).integers(0, 256, (2, frames, 32, 48, 3)).astype(np.float32)
        found, loaded = model(clips), again(clips)
        if readout == "attention":
            weights = np.asarray(found["attention"])
            assert weights.shape == (2, frames)
            assert weights.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
            found, loaded = found["probabilities"], loaded["probabilities"]
        probabilities = np.asarray(found)
        assert probabilities.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
        assert np.asarray(loaded) == pytest.approx(probabilities, abs=1e-6)


def test_the_fight_recipe_builds_the_network_that_ships() -> None:
    """Sums over the first weights of its head as they were when it was trained: the options that came later change none."""
    model = Recipe.read("fight").build(classes=2)
    assert model.count_params() == 269_682
    first = {weight.path: np.abs(np.asarray(weight)).sum() for weight in model.weights if weight.path[:3] != "enc"}
    kernel, recurrent = "bilstm/forward_lstm/lstm_cell/kernel", "bilstm/forward_lstm/lstm_cell/recurrent_kernel"
    expected = {"project/kernel": 239.1757, kernel: 140.5512, recurrent: 102.4552, "classify/kernel": 13.3035}
    assert {name: first[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_the_seed_fixes_the_heads_first_weights() -> None:
    parameters = CnnLstm(name="cnn_lstm", until="block0", weights=None, units=4)

    def kernel(seed: int) -> np.ndarray:
        model = parameters.build(classes=2, input=Input(height=32, width=32), frames=1, seed=seed)
        return np.asarray(model.get_layer("bilstm").trainable_variables[0])

    assert np.array_equal(kernel(1), kernel(1))
    assert not np.array_equal(kernel(1), kernel(2))


class _Storage:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_weights_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, protocol=2) for part in [*header, OrderedDict(a=_Storage())])
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"eval is no part of a state dict"):
        read_torch_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(1) * 4, struct.pack("<q", 7)])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="no state dict in torch's legacy format"):
        read_torch_weights(tmp_path / "bad.pth")
