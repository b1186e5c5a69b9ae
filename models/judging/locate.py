"""An exported network that says where becomes a bundle that says on which grid, with the chain over its places learned on train."""

from __future__ import annotations

import keras
import numpy as np

from models.data.dataset import Dataset
from models.errors import RecipeError
from models.judging.crf import Places, learn_crf
from models.judging.judge import Runner, judge
from models.judging.report import Report
from models.recipe import Recipe
from models.training.marked import Marks
from models.zoo.architecture import Locating
from service.bundle.manifest import Manifest, Step
from service.bundle.store import Bundle, rewrite_bundle

_FLOAT = Runner("openvino", "fp32")


def located(bundle: Bundle, recipe: Recipe, model: keras.Model, *, dataset: Dataset) -> tuple[Bundle, Report]:
    """`bundle` of `model` by `recipe`, which has [places], and what was learned for its report.

    The chain fits what the float network says of train, and the strength of its penalty what it says of val. Raises RecipeError,
    BuildError, DataError and EngineError.
    """
    if recipe.places is None or not isinstance(recipe.architecture, Locating):
        raise RecipeError(
            f"[places] is for an architecture that says where, which {recipe.architecture.name} does not; leave it out"
        )
    grid = recipe.architecture.grid(model).model_copy(update={"background": recipe.places.background})
    network = bundle.manifest.network.model_copy(update={"grid": grid})
    bundle = rewrite_bundle(bundle, _checked(bundle.manifest.model_copy(update={"network": network})), {})
    if not recipe.places.crf:
        return bundle, {}
    marks = Marks(dataset, recipe.input, grid, recipe.places)
    parts = []
    for split in ("train", "val"):
        samples = dataset.split(split)
        said = judge(bundle, dataset, samples, runners=[_FLOAT]).positions[_FLOAT]
        parts.append(Places(said, np.stack([marks.places(marks.map(sample)) for sample in samples])))
    learned = learn_crf(*parts)
    step = Step(name="crf", version=1, parameters=learned.crf.parameters())
    report = {
        "strength": learned.strength,
        "val_loss": learned.val_loss,
        "val_loss_alone": learned.val_loss_alone,
        "train": len(parts[0].truth),
        "val": len(parts[1].truth),
    }
    manifest = _checked(bundle.manifest.model_copy(update={"postprocess": (step,)}))
    return rewrite_bundle(bundle, manifest, {}), {"crf": report}


def _checked(manifest: Manifest) -> Manifest:
    """A copy is not validated by itself."""
    return Manifest.model_validate(manifest.model_dump())
