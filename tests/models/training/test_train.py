"""Training on clips made for it: a bright square that moves, or stands still."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from models.errors import BuildError, RecipeError
from models.recipe import Recipe
from models.schedule import Stage, Training
from models.training.features import Activations
from models.training.fit import Labelled, class_weights, fit_stage
from models.training.part import FEATURES, Part, batches
from models.training.rows import Cached
from models.training.train import RUN, train
from models.zoo.architecture import ENCODE


@pytest.fixture(scope="module")
def trained(moving: Path, moving_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(moving_recipe, data=moving.parent, out=tmp_path_factory.mktemp("run"))


def accuracy(model: keras.Model, moving: Path, moving_recipe: Recipe) -> float:
    dataset = moving_recipe.dataset(moving)
    samples = dataset.split("test")
    clips = np.stack(
        [dataset.load(sample, spec=moving_recipe.input, sampling=moving_recipe.sampling).frames for sample in samples]
    )
    predicted = np.asarray(model(clips.astype(np.float32))).argmax(1)
    return float((predicted == np.array(dataset.class_ids(samples))).mean())


def test_both_stages_are_trained_and_the_saved_model_knows_clips_it_never_saw(
    trained: Path, moving: Path, moving_recipe: Recipe
) -> None:
    model = keras.saving.load_model(trained)
    assert accuracy(model, moving, moving_recipe) >= 0.9
    run = json.loads((trained.parent / RUN).read_text())
    assert run["val"]["n"] == 8
    assert run["val"]["accuracy"] == run["val"]["right"] / 8 >= 0.9
    first, second = run["history"]
    assert first["best"] == int(np.argmin(first["val_loss"]))
    assert len(second["loss"]) == 2
    fresh = moving_recipe.build(classes=2).get_layer(ENCODE).layer
    tuned = model.get_layer(ENCODE).layer
    changed = [
        name
        for name in ("stem_conv", "block0_depthwise_conv", "block1_expand_conv")
        if not np.array_equal(fresh.get_layer(name).get_weights()[0], tuned.get_layer(name).get_weights()[0])
    ]
    assert changed == ["block1_expand_conv"]
    assert np.array_equal(
        fresh.get_layer("block1_project_norm").get_weights()[2], tuned.get_layer("block1_project_norm").get_weights()[2]
    )


def test_a_run_that_is_done_is_not_done_again(trained: Path, moving: Path, moving_recipe: Recipe) -> None:
    before = trained.stat().st_mtime_ns
    assert train(moving_recipe, data=moving, out=trained.parent) == trained
    assert trained.stat().st_mtime_ns == before


def test_where_something_changed_the_training_begins_anew_and_says_what(
    moving: Path, moving_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stamp.json").write_text(json.dumps({"recipe": "moving", "weights_sha256": "0", "data_sha256": "0"}))
    (tmp_path / "stage0.npz").write_bytes(b"of another training")
    assert moving_recipe.training is not None
    stages = (moving_recipe.training.stages[0].model_copy(update={"epochs": 1}),)
    short = moving_recipe.training.model_copy(update={"stages": stages})
    train(moving_recipe.model_copy(update={"training": short}), data=moving, out=tmp_path)
    assert (
        f"what the recipe trains and the data changed since the training in {tmp_path}: it begins anew" in caplog.text
    )
    assert (tmp_path / "stage0.npz").read_bytes() != b"of another training"


def test_a_cnn_that_stays_random_is_said(
    moving: Path, moving_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert moving_recipe.training is not None
    stages = (moving_recipe.training.stages[0].model_copy(update={"epochs": 1}),)
    short = moving_recipe.training.model_copy(update={"stages": stages})
    drawn = moving_recipe.architecture.model_copy(update={"weights": None})
    for architecture in (moving_recipe.architecture, drawn):
        caplog.clear()
        recipe = moving_recipe.model_copy(update={"training": short, "architecture": architecture})
        train(recipe, data=moving, out=tmp_path / str(architecture.pretrained))
        assert ("keeps the random weights that it was drawn with" in caplog.text) == (architecture is drawn)


def test_a_class_that_val_lacks_is_said(
    moving: Path, moving_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = tmp_path / "moving"
    shutil.copytree(moving, known)
    table = known / "splits.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(row for row in rows if "stands" not in row or "val" not in row) + "\n", encoding="utf-8")
    assert moving_recipe.training is not None
    stages = (moving_recipe.training.stages[0].model_copy(update={"epochs": 1}),)
    short = moving_recipe.training.model_copy(update={"stages": stages})
    train(moving_recipe.model_copy(update={"training": short}), data=known, out=tmp_path / "run")
    assert "split val has no samples of stands: the epoch is chosen without them" in caplog.text


def test_the_same_recipe_gives_the_same_weights(
    trained: Path, moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    again = keras.saving.load_model(train(moving_recipe, data=moving, out=tmp_path))
    for one, other in zip(keras.saving.load_model(trained).get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_frozen_activations_are_those_of_the_network_on_the_servers_frames(
    moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    dataset = moving_recipe.dataset(moving)
    encoder = moving_recipe.build(classes=2).get_layer(ENCODE).layer
    sample = dataset.samples[3]
    activations = Activations(
        encoder,
        dataset=dataset,
        spec=moving_recipe.input,
        sampling=moving_recipe.sampling,
        cuts=(FEATURES, "block0"),
        cache=tmp_path,
    )
    activations.prepare([sample])
    frames = dataset.load(sample, spec=moving_recipe.input, sampling=moving_recipe.sampling).frames.astype(np.float32)
    (found,) = activations.read([sample], cut=FEATURES).views
    assert found[0] == pytest.approx(np.asarray(encoder(frames)), rel=1e-2, abs=1e-2)
    assert activations.read([sample], cut="block0").views[0].shape == (1, 4, 16, 16, 16)


class Interrupted(Exception):
    pass


class _StopsAt(list):  # type: ignore[type-arg]
    """Rows that raise when they have been read so often: an interruption in the midst of an epoch."""

    def __init__(self, rows: list[np.ndarray], reads: int) -> None:
        super().__init__(rows)
        self.left = reads

    def __getitem__(self, index: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().__getitem__(index)  # type: ignore[index]


def training(stage: Stage) -> Training:
    return Training(stages=(stage,))


def head_only(moving_recipe: Recipe) -> tuple[keras.Model, Labelled, Labelled, Stage]:
    keras.utils.set_random_seed(0)
    model = moving_recipe.build(classes=2)
    rng = np.random.default_rng(0)
    classes = np.arange(20) % 2
    size = model.get_layer(ENCODE).output.shape[-1]
    rows = [(rng.normal(size=(2, 4, size)) * (1 + 3 * number)).astype(np.float16) for number in classes]
    names = [f"clip{number}" for number in range(20)]
    return (
        model,
        Labelled(Cached(rows, names), classes),
        Labelled(Cached(rows[:6], names[:6]), classes[:6]),
        Stage(epochs=5, rate=1e-2, batch=4, patience=3),
    )


def test_an_interrupted_stage_goes_on_and_ends_where_an_uninterrupted_one_does(
    moving_recipe: Recipe, tmp_path: Path
) -> None:
    weights = np.ones(2, np.float32)
    model, fitted, val, stage = head_only(moving_recipe)
    whole = fit_stage(model, training=training(stage), stage=stage, train=fitted, val=val, weights=weights, seed=1)
    expected = model.get_weights()
    model, _, _, _ = head_only(moving_recipe)
    broken = Labelled(Cached(_StopsAt(list(fitted.rows.views), 140), fitted.rows.names), fitted.classes)
    with pytest.raises(Interrupted):
        fit_stage(
            model,
            training=training(stage),
            stage=stage,
            train=broken,
            val=val,
            weights=weights,
            seed=1,
            checkpoint=tmp_path / "s.npz",
        )
    model, _, _, _ = head_only(moving_recipe)
    resumed = fit_stage(
        model,
        training=training(stage),
        stage=stage,
        train=fitted,
        val=val,
        weights=weights,
        seed=1,
        checkpoint=tmp_path / "s.npz",
    )
    assert resumed == whole
    for one, other in zip(expected, model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_early_stopping_brings_back_the_best_weights(moving_recipe: Recipe) -> None:
    model, fitted, val, stage = head_only(moving_recipe)
    wrong = Labelled(val.rows, 1 - val.classes)  # the better the fit, the worse on val: the first epoch is the best
    patient = stage.model_copy(update={"epochs": 30, "patience": 2})
    history = fit_stage(
        model,
        training=training(patient),
        stage=patient,
        train=fitted,
        val=wrong,
        weights=np.ones(2, np.float32),
        seed=0,
    )
    assert len(history.loss) == history.best + 1 + 2 < 30
    probabilities = Part(model, cut=FEATURES).predict(wrong.rows)
    loss = -np.log(probabilities[np.arange(6), wrong.classes]).mean()
    assert loss == pytest.approx(min(history.val_loss), abs=1e-5)


def test_a_loss_that_is_no_number_ends_the_training(moving_recipe: Recipe) -> None:
    model, fitted, val, stage = head_only(moving_recipe)
    with pytest.raises(
        BuildError,
        match=r"the loss is nan in epoch 1 of features, at rate 0.01 and gradient norm nan, in the very first batch, "
        r"in a batch of clip\d+.*lower the stage's rate 0.01",
    ):
        fit_stage(
            model,
            training=training(stage),
            stage=stage,
            train=fitted,
            val=val,
            weights=np.full(2, np.nan, np.float32),
            seed=0,
        )


def test_batches_hold_clips_of_one_length_and_every_clip_once() -> None:
    lengths = [4, 2, 4, 4, 2, 4, 1]
    found = list(batches(lengths, np.arange(7), batch=2))
    assert all(len({lengths[i] for i in batch}) == 1 and len(batch) <= 2 for batch in found)
    assert sorted(np.concatenate(found).tolist()) == list(range(7))


def test_class_weights_make_classes_count_alike() -> None:
    classes = np.array([0, 0, 0, 1])
    weights = class_weights(classes, count=3)
    assert weights.tolist() == pytest.approx([4 / 9, 4 / 3, 0.0])


def test_stages_that_would_freeze_what_was_trained_are_refused(
    moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    assert moving_recipe.training is not None
    turned = moving_recipe.model_copy(
        update={"training": moving_recipe.training.model_copy(update={"stages": moving_recipe.training.stages[::-1]})}
    )
    with pytest.raises(RecipeError, match="must not freeze what one before it trained"):
        train(turned, data=moving, out=tmp_path)
