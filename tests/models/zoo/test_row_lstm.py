"""Pictures read line by line: what the network sees of them, and what its seed fixes."""

from pathlib import Path

import keras
import numpy as np
import pytest

from models.zoo.architecture import Architecture
from models.zoo.row_lstm import RowLstm
from models.zoo.row_lstm_regularized import RowLstmRegularized
from models.zoo.steps import Scan
from service.bundle.manifest import Input

ROWS, REGULARIZED = RowLstm(name="row_lstm", units=8), RowLstmRegularized(name="row_lstm_regularized", units=(8, 6))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.float32)


def built(architecture: Architecture, *, classes: int = 4, seed: int = 0) -> keras.Model:
    return architecture.build(classes=classes, input=Input(height=28, width=28, color="gray"), frames=1, seed=seed)


def test_levels_that_look_alike_begin_alike_and_black_is_nothing() -> None:
    table = np.asarray(built(RowLstm(name="row_lstm", embedding=5, units=4)).get_layer("embed").embeddings)
    assert not table[0].any()
    assert table[51] == pytest.approx(0.2 * table[255], abs=1e-6)
    assert len(set(np.round(table[255], 5))) == 5


def test_read_by_columns_a_picture_gives_what_its_transpose_gives_by_rows() -> None:
    scans: tuple[Scan, ...] = ("rows", "columns")
    rows, columns = (built(RowLstm(name="row_lstm", units=8, scan=scan)) for scan in scans)
    assert np.asarray(columns(IMAGES)) == pytest.approx(np.asarray(rows(IMAGES.swapaxes(1, 2))), abs=1e-6)
    assert np.abs(np.asarray(rows(IMAGES)) - np.asarray(rows(IMAGES.swapaxes(1, 2)))).max() > 1e-4


@pytest.mark.parametrize("steps", [14, 28, 56])
def test_the_lstm_sees_as_many_steps_as_are_asked_for(steps: int) -> None:
    model = built(RowLstm(name="row_lstm", units=8, steps=steps, embedding=3))
    assert model.get_layer("steps").output.shape == (None, steps, 28 * 28 * 3 // steps)
    assert np.asarray(model(IMAGES)).sum(1) == pytest.approx(np.ones(3), abs=1e-5)


def test_the_penalty_is_that_of_the_kernels_and_of_no_recurrent_kernel() -> None:
    model = built(RowLstmRegularized(name="row_lstm_regularized", units=(8, 6), hidden=5, weight_decay=0.01))
    kernels = [model.get_layer(name).weights[0] for name in ("lstm", "summary", "hidden")]
    assert [kernel.shape for kernel in kernels] == [(28, 32), (8, 24), (6, 5)]
    expected = 0.01 * sum(float((np.asarray(kernel) ** 2).sum()) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_recurrent_kernels_begin_orthogonal() -> None:
    model = built(REGULARIZED)
    kernel = np.asarray(model.get_layer("lstm").weights[1])
    assert kernel @ kernel.T == pytest.approx(np.eye(8), abs=1e-5)


@pytest.mark.parametrize("architecture", [ROWS, REGULARIZED], ids=lambda each: each.name)
def test_the_seed_fixes_the_first_weights_and_the_file_brings_them_back(
    architecture: Architecture, tmp_path: Path
) -> None:
    one, same, other = (built(architecture, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one(IMAGES), same(IMAGES))
    assert not np.array_equal(one(IMAGES), other(IMAGES))
    one.save(tmp_path / "model.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "model.keras")(IMAGES), one(IMAGES))
