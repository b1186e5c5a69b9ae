"""The forms that circulate in print, saved as their reader would and taken in by `marey-build export`: equal to Keras."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from models.cli import main
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.synthetic import synthetic_clips
from service.bundle.store import Bundle, open_bundle
from tests.users.decisive import make_decisive
from tests.users.printed import FORMS, Form

CLIPS, FRAMES = 6, 3
BIG = ("resnet50_lstm", "vgg16_head")


@dataclass(frozen=True, slots=True)
class Taken:
    """A form's file as Keras reads it again, what the bundle made of it, and clips `[B, T, H, W, C]` that are told apart."""

    form: Form
    model: keras.Model
    bundle: Bundle
    clips: np.ndarray

    def keras_says(self) -> np.ndarray:
        """`[B, K]` of clips, or `[B·T, …]` of their frames where the model is one of images."""
        rows = Normalization.parse(self.form.preprocess, color=self.form.color).apply(self.clips)
        rows = rows if len(self.model.input_shape) == 5 else rows.reshape(-1, *rows.shape[2:])
        return np.asarray(self.model(rows, training=False))

    def bundle_says(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        run = {
            role: Runtime(onnx.load(self.bundle.file(role)))
            for role in self.bundle.manifest.artifacts
            if "." not in role
        }
        if "clip" in run:
            return run["clip"](clips)
        features = run["encoder"](clips.reshape(-1, *clips.shape[2:]))["features"]
        return run["head"](features.reshape(*clips.shape[:2], -1))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in BIG else []) for name in FORMS]
)
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    form, folder = FORMS[request.param], tmp_path_factory.mktemp("printed")
    keras.utils.set_random_seed(1)
    model = form.build()
    height, width, channels = model.input_shape[-3:]
    clips = synthetic_clips(count=CLIPS, frames=FRAMES, height=height, width=width, channels=channels, seed=8)
    fed = Normalization.parse(form.preprocess, color=form.color).apply(clips)
    make_decisive(model, fed if len(model.input_shape) == 5 else fed.reshape(-1, *fed.shape[2:]))
    file = folder / f"model{form.saved}"
    model.save(file)
    (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(form.classes)))
    (folder / "pictures").mkdir()
    for number, frame in enumerate(clips.reshape(-1, height, width, channels).repeat(2, axis=0)):
        cv2.imwrite(str(folder / "pictures" / f"{number:02d}.png"), frame[..., ::-1])
    given = ["--calibration", folder / "pictures", "--labels", folder / "labels.txt", "--out", folder / "bundle"]
    result = CliRunner().invoke(main, ["export", str(file), *map(str, given), *form.flags])
    assert result.exit_code == 0, result.output
    return Taken(form, keras.saving.load_model(file, compile=False), open_bundle(folder / "bundle"), clips)


def test_the_bundle_of_the_file_answers_as_keras_does(taken: Taken) -> None:
    wanted = taken.keras_says()
    if len(taken.model.input_shape) == 4:  # a picture is a clip of one frame
        found = taken.bundle_says(taken.clips.reshape(-1, 1, *taken.clips.shape[2:]))
    else:
        found = taken.bundle_says(taken.clips)
    if taken.form.positions:
        places = wanted[..., 0]
        np.testing.assert_allclose(found["positions"], np.stack([1 - places, places], axis=-1), atol=1e-4)
        wanted = np.stack([1 - places, places], axis=-1).mean(axis=1)
        assert np.ptp(places, axis=0).max() > 0.2
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-4)
    assert np.ptp(found["probabilities"], axis=0).max() > 0.1, "answers that do not differ would prove nothing"


def test_recurrence_is_a_real_layer_and_nothing_loops(taken: Taken) -> None:
    kinds = {
        node.op_type
        for role in taken.bundle.manifest.artifacts
        for node in onnx.load(taken.bundle.file(role)).graph.node
    }
    assert not kinds & {"Loop", "Scan", "If"}
    assert ("LSTM" in kinds) == any("lstm" in layer.name for layer in taken.model._flatten_layers())
