"""What a model answers is read by a word on its activation and on its steps."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from service.bundle.store import open_bundle
from tests.models.export_command.conftest import export
from tests.models.export_command.networks import cnn, images


def test_scores_need_an_activation_that_is_named(given: Path, tmp_path: Path) -> None:
    images(activation=None).save(tmp_path / "scores.keras")
    arguments = (tmp_path / "scores.keras", "--preprocess", "0/255")
    assert (
        "name the activation that it lacks with --activation"
        in export(given, tmp_path / "out", *arguments, code=1).stderr
    )
    export(given, tmp_path / "out", *arguments, "--activation", "softmax")
    assert open_bundle(tmp_path / "out").manifest.activation == "softmax"


def test_answers_for_each_step_need_a_word_on_which_counts(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    clips = keras.Input((None, 16, 16, 3))
    x = layers.LSTM(4, return_sequences=True)(layers.TimeDistributed(cnn())(layers.Rescaling(1 / 255)(clips)))
    keras.Model(clips, layers.Dense(3, activation="softmax")(x)).save(tmp_path / "steps.keras")
    assert "--steps mean or --steps last" in export(given, tmp_path / "out", tmp_path / "steps.keras", code=1).stderr
    export(given, tmp_path / "out", tmp_path / "steps.keras", "--steps", "last")
    assert open_bundle(tmp_path / "out").manifest.network.positions
