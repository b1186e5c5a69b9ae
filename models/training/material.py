"""What the stages of a recipe are trained on: cached activations where the CNN is frozen, decoded frames where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from models.data.dataset import Dataset, Sample
from models.errors import RecipeError
from models.recipe import Recipe
from models.schedule import FRAMES
from models.training.features import Activations
from models.training.frames import Frames
from models.training.marked import Marks
from models.training.part import FEATURES, encoder_of
from models.training.rows import Rows
from models.zoo.architecture import Locating


class Material:
    """Rows at the cut of every stage of `recipe`. Raises RecipeError where the cuts move the wrong way or `model` cannot be cut so."""

    def __init__(self, model: keras.Model, recipe: Recipe, *, dataset: Dataset, cache: Path) -> None:
        assert recipe.training is not None
        training = recipe.training
        cuts = [stage.cut for stage in training.stages]
        cached = [cut for cut in cuts if cut != FRAMES]
        marks = _marks(model, recipe, dataset=dataset)
        self._frames: Frames | None = None
        self._activations: Activations | None = None
        if cached:
            encoder, _ = encoder_of(model)
            _check_order(cuts, depth=len(encoder.layers))
            self._activations = Activations(
                encoder,
                dataset=dataset,
                spec=recipe.input,
                sampling=recipe.sampling,
                cuts=cached,
                augmentation=training.augmentation,
                seed=training.seed,
                cache=cache,
                marks=marks,
            )
        if FRAMES in cuts:
            self._frames = Frames(
                dataset=dataset,
                spec=recipe.input,
                sampling=recipe.sampling,
                length=model.input_shape[1] if len(model.input_shape) == 5 else None,
                augmentation=training.augmentation,
                memory_gib=training.memory_gib,
                marks=marks,
            )

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Compute or decode whatever is not there yet. Raises BuildError where that would take too much memory."""
        for source in (self._activations, self._frames):
            if source is not None:
                source.prepare(samples)

    def read(self, samples: Sequence[Sample], *, cut: str) -> Rows:
        """The rows of `samples`, which were prepared."""
        if cut == FRAMES:
            assert self._frames is not None
            return self._frames.read(samples)
        assert self._activations is not None
        return self._activations.read(samples, cut=cut)


def _marks(model: keras.Model, recipe: Recipe, *, dataset: Dataset) -> Marks | None:
    if recipe.training is None or not recipe.training.places_weight:
        return None
    if recipe.places is None or not isinstance(recipe.architecture, Locating):
        raise RecipeError(
            f"training.places_weight = {recipe.training.places_weight:g} needs [places] and an architecture that says where, "
            f"which {recipe.architecture.name} does not; give both, or leave the weight out"
        )
    return Marks(dataset, recipe.input, recipe.architecture.grid(model), recipe.places)


def _check_order(cuts: Sequence[str], *, depth: int) -> None:
    depths = [-1 if cut == FRAMES else depth if cut == FEATURES else _number(cut) for cut in cuts]
    if depths != sorted(depths, reverse=True):
        raise RecipeError(
            f"stages cut at {', '.join(cuts)}: a later stage must not freeze what one before it trained; reorder them"
        )


def _number(cut: str) -> int:
    digits = cut.removeprefix("block")
    if not digits.isdigit():
        raise RecipeError(
            f"the CNN cannot be cut after {cut!r}; choose {FEATURES}, {FRAMES} or a block, such as block7"
        )
    return int(digits)
