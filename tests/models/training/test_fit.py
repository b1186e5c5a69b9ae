"""Whole networks, trained from frames: images and clips on which something bright is, or is not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from models.errors import BuildError
from models.schedule import Augmentation, Stage, Training
from models.training.advice import advise
from models.training.checkpoint import History
from models.training.curves import Curves
from models.training.fit import Labelled, fit_stage, rate_at
from models.training.frames import Drawn
from models.training.part import Part

SIZE = 8
NOTHING = Augmentation(flip=False, shift=False)
MOVING = Augmentation(rotation=20, translate=0.1, contrast=0.1)


def network(*, clips: bool = False, norm: bool = True, drop: float = 0.0, places: bool = False) -> keras.Model:
    """A small CNN, per frame where `clips`, then an LSTM; `places` answers for each cell of its map, too."""
    keras.utils.set_random_seed(0)
    frames = keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(4, 3, padding="same", kernel_regularizer=keras.regularizers.L2(1e-3))(
        layers.Rescaling(1 / 255)(frames)
    )
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.5, name="norm")(x) if norm else x)
    maps = layers.MaxPooling2D(4)(x)
    if places:
        positions = layers.Reshape((4, 2))(layers.Dense(2, activation="softmax")(maps))
        answer = layers.Dense(2, activation="softmax")(layers.Flatten()(maps))
        return keras.Model(frames, {"probabilities": answer, "positions": positions})
    encoder = keras.Model(frames, layers.GlobalMaxPooling2D()(x), name="cnn" if clips else "encode")
    if clips:
        source = keras.Input((None, SIZE, SIZE, 1))
        y = layers.LSTM(4)(layers.TimeDistributed(encoder, name="encode")(source))
    else:
        source = keras.Input((SIZE, SIZE, 1))
        y = encoder(source)
    return keras.Model(source, layers.Dense(2, activation="softmax")(layers.Dropout(drop, seed=1)(y)))


def data(count: int = 26, *, lengths: tuple[int, ...] = (1,), plan: Augmentation = NOTHING) -> Labelled:
    rng = np.random.default_rng(0)
    classes = np.arange(count) % 2
    clips = [rng.integers(0, 60, (lengths[i // 2 % len(lengths)], SIZE, SIZE, 1), np.uint8) for i in range(count)]
    for clip, bright in zip(clips, classes, strict=True):
        clip[:, 1:4, 1:4] += np.uint8(150 * bright)
    names = [f"clip{i}" for i in range(count)]
    shown = [np.arange(len(clip)) for clip in clips]
    return Labelled(Drawn(clips, shown, names, np.arange(count, dtype=np.uint64), plan), classes)


def fit(model: keras.Model, train: Labelled, stage: Stage, *, val: Labelled | None = None, **more: object) -> History:
    given = {"training": Training(stages=(stage,)), "weights": np.ones(2, np.float32), "train_batchnorm": True}
    return fit_stage(model, stage=stage, train=train, val=val, seed=3, quiet=True, **(given | more))


STAGE = Stage(cut="frames", epochs=8, rate=2e-2, batch=8, warm_up=1, patience=0)


@pytest.mark.parametrize("clips", [False, True])
def test_a_whole_network_learns_from_frames_and_trains_its_batchnorm(clips: bool) -> None:
    model, train = network(clips=clips), data(lengths=(3, 2) if clips else (1,), plan=MOVING)
    history = fit(model, train, STAGE.model_copy(update={"epochs": 20}), val=train)
    assert history.val_accuracy[-1] == 1.0
    assert history.loss[-1] < history.loss[0]
    assert len(history.gradient_norm) == len(history.rate) == len(history.seconds) == 20
    norm = [variable for variable in model.variables if "moving_mean" in variable.path]
    assert abs(np.array(norm[0])).max() > 0
    probabilities = Part(model, cut="frames").predict(train.rows)
    for i in (0, 3):
        plain = train.rows.plain(np.array([i]))
        assert probabilities[i] == pytest.approx(np.asarray(model(plain if clips else plain[:, 0]))[0], abs=1e-5)


def test_the_batchnorm_of_a_pretrained_cnn_stays_as_it_is() -> None:
    model = network(clips=True)
    norm = next(each for each in model.get_layer("encode").layer.layers if each.name == "norm")
    before = [np.array(value) for value in norm.variables]
    kernel = np.array(model.get_layer("encode").layer.layers[2].kernel)
    fit(model, data(lengths=(2,)), STAGE.model_copy(update={"epochs": 2}), train_batchnorm=False)
    assert all(np.array_equal(one, other) for one, other in zip(before, norm.variables, strict=True))
    assert not np.array_equal(kernel, model.get_layer("encode").layer.layers[2].kernel)


def test_gradients_added_up_are_those_of_the_larger_batch() -> None:
    """26 clips in steps of 8, 8, 8, 2: also the last, smaller step is the same."""
    large, small = network(norm=False), network(norm=False)
    whole = fit(large, data(plan=MOVING), STAGE)
    parts = fit(small, data(plan=MOVING), STAGE.model_copy(update={"batch": 3, "accumulate": 3}))
    assert parts.loss != pytest.approx(whole.loss, rel=1e-4)  # steps of 9 are others than steps of 8 …
    small = network(norm=False)
    parts = fit(small, data(plan=MOVING), STAGE.model_copy(update={"batch": 2, "accumulate": 4}))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)
    for one, other in zip(large.get_weights(), small.get_weights(), strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_clip_that_is_seen_by_a_network_of_images_counts_as_the_mean_over_its_frames() -> None:
    model, train = network(), data(lengths=(3,))
    found = Part(model, cut="frames").predict(train.rows)
    frames = train.rows.plain(np.array([1]))[0]
    assert found[1] == pytest.approx(np.asarray(model(frames)).mean(0), abs=1e-5)


def test_the_penalties_of_all_layers_count() -> None:
    part = Part(network(clips=True), cut="frames")
    kernel = np.array(part.tail.layers[2].kernel)
    assert float(part.penalty()) == pytest.approx(1e-3 * (kernel**2).sum(), rel=1e-5)


_STAGE_THAT_IS_KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from models.training.fit import Labelled
from test_fit import MOVING, STAGE, data, fit, network

armed = []

class Deadly(list):
    def __getitem__(self, index):
        if armed:
            armed.append(index)
        if len(armed) > 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

train = data(lengths=(3, 2), plan=MOVING)
rows = dataclasses.replace(train.rows, clips=Deadly(train.rows.clips))
watch = lambda history: armed.append(-1) if len(history.loss) == 3 else None
fit(network(clips=True, drop=0.3), Labelled(rows, train.classes), STAGE, val=train, checkpoint=Path({file!r}), watch=watch)
"""


def test_after_a_kill_the_training_ends_where_it_would_have_ended_without(tmp_path: Path) -> None:
    """SIGKILL in the midst of the fourth epoch, after a dozen of its 26 clips."""
    train = data(lengths=(3, 2), plan=MOVING)
    model = network(clips=True, drop=0.3)
    whole = fit(model, train, STAGE, val=train)
    file = tmp_path / "stage.npz"
    script = _STAGE_THAT_IS_KILLED.format(folder=str(Path(__file__).parent), file=str(file))
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    again = network(clips=True, drop=0.3)
    resumed = fit(again, train, STAGE, val=train, checkpoint=file)
    assert resumed == whole
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_a_loss_that_is_no_number_is_told_with_its_batch() -> None:
    train = data()
    weights = np.array([1.0, np.nan], np.float32)
    with pytest.raises(BuildError) as refused:
        fit(network(), train, STAGE, weights=weights)
    told = str(refused.value)
    assert "the loss is nan in epoch 1 of frames, at rate 0.005 and gradient norm nan, in the very first batch" in told
    assert told.count("clip") >= 8
    assert "lower the stage's rate 0.02" in told


def test_a_rate_that_is_far_too_high_is_recognised_by_its_curve_and_a_good_one_is_not() -> None:
    train = data(plan=MOVING)
    wild = STAGE.model_copy(update={"rate": 0.9, "epochs": 16, "warm_up": 0, "batch": 4})
    found = advise(fit(network(norm=False), train, wild, val=train), stage=wild)
    assert "oscillating" in [each.kind for each in found], found
    good = STAGE.model_copy(update={"epochs": 16})
    assert "oscillating" not in [each.kind for each in advise(fit(network(), train, good, val=train), stage=good)]


def test_places_are_learnt_where_they_are_known() -> None:
    class Places:
        """The cell with the bright square shows class 1; of the last cell nothing is known."""

        def places(self, classes: np.ndarray) -> np.ndarray:
            return np.array([int(classes[1:4, 1:4].max()), 0, 0, -1])

    train = data()
    maps = [np.pad(np.full((3, 3), bright, np.uint8), ((1, 4), (1, 4))) for bright in train.classes]
    rows = train.rows
    marked = Labelled(Drawn(rows.clips, rows.shown, rows.names, rows.keys, NOTHING, maps, Places()), train.classes)
    model = network(places=True)
    stage = STAGE.model_copy(update={"epochs": 40})
    fit(model, marked, stage, training=Training(stages=(stage,), places_weight=1.0))
    positions = np.asarray(model(rows.plain(np.arange(26))[:, 0])["positions"])
    assert (positions[:, 0].argmax(1) == train.classes).all()
    assert (positions[:, 1:3, 0] > 0.5).all()
    with pytest.raises(BuildError, match=r"the loss does not depend on .*kernel"):
        fit(network(places=True), train, stage)


def test_mixed_precision_learns_with_weights_in_full_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(clips=True)
    finally:
        keras.config.set_dtype_policy(before)
    train = data(lengths=(2,))
    stage = STAGE.model_copy(update={"epochs": 20})
    history = fit(model, train, stage, val=train, training=Training(stages=(stage,), mixed_precision="always"))
    assert model.layers[-1].compute_dtype == "float16"
    assert {str(variable.dtype) for variable in model.trainable_variables} == {"float32"}
    assert history.val_accuracy[-1] == 1.0


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    stage = Stage(epochs=10, rate=0.1, warm_up=2)
    assert [rate_at(stage, at) for at in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_curves_are_event_files_that_name_the_plugin_of_scalars(tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415 -- one test

    with Curves(tmp_path) as curves:
        curves.write("0-frames", History(loss=[0.5]))
        curves.write("0-frames", History(loss=[0.5, 0.25], val_loss=[1.0, 0.75]))
    (file,) = tmp_path.glob("events.out.tfevents.*")
    found = []
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name in {"scalars", ""}
            found.append((value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    assert ("0-frames/loss", 1, 0.5) in found
    assert ("0-frames/loss", 2, 0.25) in found
    assert ("0-frames/val_loss", 2, 0.75) in found
