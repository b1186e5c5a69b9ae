"""Code that a model needs runs where it is trusted, and the answers stay those of Keras."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from models.files.model_code import ModelCode
from service.bundle.store import open_bundle
from tests.models.export_command.conftest import export
from tests.models.export_command.networks import answers, clips_of, images


def test_weights_alone_are_exported_with_the_code_that_builds_the_model(given: Path, tmp_path: Path) -> None:
    model = images()
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "mine.py").write_text(
        "import keras\nfrom keras import layers\n\ndef network():\n    frame = keras.Input((16, 16, 3))\n"
        "    x = layers.Conv2D(6, 3, strides=2, activation='relu', name='conv')(frame)\n"
        "    return keras.Model(frame, layers.Dense(3, activation='softmax', name='classes')(layers.GlobalAveragePooling2D()(x)))\n"
    )
    arguments = (tmp_path / "m.weights.h5", "--preprocess", "0/255", "--model-code", f"{tmp_path / 'mine.py'}:network")
    assert "add --trust if you trust it" in export(given, tmp_path / "out", *arguments, code=1).stderr
    export(given, tmp_path / "out", *arguments, "--trust")
    pixels = clips_of()
    wanted = np.asarray(model(pixels.reshape(-1, 16, 16, 3).astype(np.float32) / 255)).reshape(2, 5, 3).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)


def test_a_lambda_that_is_trusted_is_traced_where_it_can_be(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    frame = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(
        layers.Lambda(lambda pixels: pixels / 255.0, name="to_unit")(frame)
    )
    dense = layers.Dense(3, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 3))
    model = keras.Model(frame, dense(layers.GlobalAveragePooling2D()(x)))
    model.save(tmp_path / "lambda.keras")
    arguments = (tmp_path / "lambda.keras", "--preprocess", "none")
    assert (
        "the Lambda layer 'to_unit', whose code would run" in export(given, tmp_path / "out", *arguments, code=1).stderr
    )
    result = export(given, tmp_path / "out", *arguments[:1], "--trust")
    assert "scaled by 'true_divide" in result.stderr
    pixels = clips_of()
    wanted = np.asarray(model(pixels.reshape(-1, 16, 16, 3).astype(np.float32))).reshape(2, 5, 3).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)


SUBCLASSED = """
import keras
from keras import layers

class Mine(keras.Model):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.conv = layers.Conv2D(6, 3, strides=2, activation="relu")
        self.each = layers.TimeDistributed(self.conv)
        self.pool = layers.TimeDistributed(layers.GlobalAveragePooling2D())
        self.time = layers.GRU(4)
        self.classes = layers.Dense(3, activation="softmax", kernel_initializer="he_normal")

    def call(self, clips):
        return self.classes(self.time(self.pool(self.each(clips / 255.0))))
"""


def test_a_subclassed_model_of_ones_own_code_is_exported_under_trust(given: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(SUBCLASSED)
    keras.utils.set_random_seed(1)
    model = ModelCode.parse(str(code), trust=True).open().custom["Mine"]()
    pixels = clips_of()
    wanted = np.asarray(model(pixels.astype(np.float32)))
    model.save(tmp_path / "mine.keras")
    error = export(given, tmp_path / "out", tmp_path / "mine.keras", code=1).stderr
    assert "needs Mine, which is not Keras's own; give the file that defines it with --model-code" in error
    export(given, tmp_path / "out", tmp_path / "mine.keras", "--model-code", code, "--trust")
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)
