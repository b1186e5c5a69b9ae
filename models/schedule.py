"""How a recipe's network is trained: augmentation, stages, cross-validation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.bundle.manifest import Frozen

Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Frozen):
    """How the views of a training clip differ from it. Lengths are shares of the clip's, colours of the full range.

    `views` are drawn once for each clip and cached; `crop` is the smallest share of height and width that is kept,
    `window` the shortest share of the clip's time; `shift` moves all frames alike by up to their distance.
    """

    views: int = Field(default=0, ge=0, le=64)
    flip: bool = True
    crop: Share = 1.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    window: Share = 1.0
    shift: bool = True


class Stage(Frozen):
    """One stage of training: the network after `cut` is trained on cached activations, everything before it is frozen.

    `cut` is `features` (the head alone) or the last frozen block of the CNN. `patience` counts epochs without a better
    loss on val; 0 trains all epochs and keeps the last weights.
    """

    cut: str = "features"
    epochs: int = Field(ge=1, le=1000)
    rate: Rate
    batch: int = Field(default=16, ge=1)
    patience: int = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class Training(Frozen):
    """All stages, one after the other, each from the weights of the one before."""

    seed: int = Field(default=0, ge=0)
    class_weights: bool = True
    augmentation: Augmentation = Augmentation()
    stages: tuple[Stage, ...] = Field(min_length=1)


class CrossValidation(Frozen):
    """`folds` of whole groups; in each, `inner` of the groups' samples choose the epoch. `seeds` trainings per fold."""

    folds: int = Field(default=5, ge=2)
    seeds: int = Field(default=3, ge=1)
    inner_folds: int = Field(default=6, ge=2)
    floor_frames: int = Field(default=10, ge=2)
