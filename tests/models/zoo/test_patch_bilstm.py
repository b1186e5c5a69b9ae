"""A picture as a sequence of overlapping patches, and what attention makes of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.recipe import Recipe
from models.zoo.patch_bilstm import Embedding, PatchBiLstm
from service.bundle.manifest import Input

SIZE = Input(height=48, width=40)
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 48, 40, 3)).astype(np.float32)  # 5 × 4 patches


@pytest.fixture(scope="module", params=["linear", "conv"])
def network(request: pytest.FixtureRequest) -> keras.Model:
    return of_patches(request.param)


def of_patches(embedding: Embedding) -> keras.Model:
    parameters = PatchBiLstm(name="patch_bilstm", embedding=embedding, width=6, units=4)
    return parameters.build(classes=3, input=SIZE, frames=1, seed=1)


def inside(network: keras.Model, layer: str, given: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(network.input, network.get_layer(layer).output)(given))


def test_a_picture_of_128_pixels_is_225_steps() -> None:
    parameters = PatchBiLstm(name="patch_bilstm", embedding="conv", width=6, units=4)
    whole = parameters.build(classes=4, input=Input(height=128, width=128), frames=1, seed=0)
    assert whole.get_layer("sequence").output.shape == (None, 225, 6)
    assert whole.output.shape == (None, 4)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 8), (15, 16), (24, 39), (47, 39)])
def test_8_pixels_a_side_are_seen_by_the_patches_that_hold_them_and_by_no_other(
    network: keras.Model, row: int, column: int
) -> None:
    changed = PICTURE.copy()
    row, column = row // 8 * 8, column // 8 * 8  # whose neighbours all lie in the same patches
    changed[0, row : row + 8, column : column + 8] = 255 - changed[0, row : row + 8, column : column + 8]
    steps = np.abs(inside(network, "sequence", changed) - inside(network, "sequence", PICTURE)).max(-1) > 1e-6
    holding = [
        (top, left)
        for top in range(5)
        for left in range(4)
        if 8 * top <= row < 8 * top + 16 and 8 * left <= column < 8 * left + 16
    ]
    seen = {(int(step) // 4, int(step) % 4) for step in np.flatnonzero(steps[0])}
    assert seen
    assert seen <= set(holding), "a ReLU may hide a change, but none comes from elsewhere"
    if len([layer for layer in network.layers if layer.name.startswith("embed")]) == 2:
        assert seen == set(holding), "linear: nothing hides"


def test_a_linear_embedding_is_a_dense_over_the_pixels_of_each_patch() -> None:
    network = of_patches("linear")
    kernel = np.asarray(network.get_layer("embed0").kernel).reshape(-1, 6)
    scaled = PICTURE[0] / 127.5 - 1
    patches = [scaled[8 * top : 8 * top + 16, 8 * left : 8 * left + 16] for top in range(5) for left in range(4)]
    wanted = np.stack([patch.reshape(-1) for patch in patches]) @ kernel
    assert inside(network, "embed0", PICTURE).reshape(20, 6) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_attention_weighs_averages_of_so_many_states_and_its_weights_sum_to_one(
    network: keras.Model, scale: int
) -> None:
    states = inside(network, "bilstm", PICTURE)[0]
    pooled = states.reshape(-1, scale, states.shape[-1]).mean(1)
    weights = inside(network, f"attention{scale}", PICTURE)[0, :, 0]
    assert len(weights) == 20 // scale
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert inside(network, f"summary{scale}", PICTURE)[0] == pytest.approx(weights @ pooled, abs=1e-5)


def test_the_same_seed_gives_the_same_network_and_another_one_another() -> None:
    parameters, small = PatchBiLstm(name="patch_bilstm", width=4, units=2), Input(height=32, width=32, color="gray")
    one, same, other = (
        parameters.build(classes=3, input=small, frames=1, seed=seed).get_weights() for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first, second) for first, second in zip(one, same, strict=True))
    assert any(not np.array_equal(first, second) for first, second in zip(one, other, strict=True))


def test_patches_that_do_not_fit_are_refused_with_the_remedy() -> None:
    usual = PatchBiLstm(name="patch_bilstm")
    with pytest.raises(RecipeError, match="patches of 16 pixels do not fit a picture of 12×40; make them smaller"):
        usual.build(classes=3, input=Input(height=12, width=40), frames=1, seed=0)
    with pytest.raises(RecipeError, match="gives 2 patches of 16 every 8 pixels, at least 4 are needed"):
        usual.build(classes=3, input=Input(height=16, width=24), frames=1, seed=0)
    other = PatchBiLstm(name="patch_bilstm", patch=8, stride=4, embedding="conv")
    with pytest.raises(RecipeError, match="made for patches of 16 every 8 pixels, not of 8 every 4; give these, or"):
        other.build(classes=3, input=SIZE, frames=1, seed=0)


def test_the_recipe_of_the_fundus_names_its_steps_and_builds() -> None:
    recipe = Recipe.read("patch_bilstm_fundus")
    assert [step.name for step in recipe.input.preprocess] == ["denoise", "clahe"]
    assert recipe.build(classes=4).output.shape == (None, 4)


def test_a_recipe_whose_steps_could_not_run_is_refused_when_it_is_read() -> None:
    with pytest.raises(RecipeError, match=r"input: .*'clahe': tiles\.0 = 64: .* 32; change it"):
        Recipe.read("patch_bilstm_fundus", overrides=['input.preprocess=[{name="clahe",parameters={tiles=[64,64]}}]'])
