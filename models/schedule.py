"""How a recipe's network is trained: augmentation, stages, cross-validation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.bundle.manifest import Frozen

Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

# The cut of a stage that trains the whole network, from decoded frames on.
FRAMES = "frames"
# Epochs without a better loss on val after which a whole network stops, where its stage does not say.
_PATIENCE = 10


class Augmentation(Frozen):
    """How the views of a training clip differ from it. Lengths are shares of the clip's, colours of the full range.

    In space: `crop` is the smallest share of height and width that is kept; `flip` mirrors left and right, `flip_vertical` top and
    bottom, half of the views; `rotation` is the largest angle in degrees, `translate` the largest distance, a share of height and width;
    what comes in from outside repeats the border. In time: `window` is the shortest share of the clip that is looked at, at the same number
    of frames, so that motion appears slower; `shift` moves all frames alike by up to their distance; `mask` is the largest share of frames in
    a row that is hidden under the clip's mean. All frames of a clip are treated alike.

    A stage on frames draws a view of each clip every epoch; one on cached activations takes one of `views`, drawn once.
    """

    views: int = Field(default=0, ge=0, le=64)
    flip: bool = True
    flip_vertical: bool = False
    crop: Share = 1.0
    rotation: float = Field(default=0.0, ge=0, le=180)
    translate: Share = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    window: Share = 1.0
    shift: bool = True
    mask: Share = 0.0


class Stage(Frozen):
    """One stage of training: the network after `cut` is trained, everything before it is frozen.

    `cut` is `features` (the head alone) or the last frozen block of the CNN, both on cached activations; or `frames`: the whole network, on
    decoded frames. `warm_up` epochs raise the rate from 0, then it falls as a cosine. `patience` counts epochs without a better loss on val; 0
    trains all epochs and keeps the last weights; unsaid it is 10 for `frames` and 0 for others. `batch` clips are in memory at once; with
    `accumulate` that many batches make one step. BatchNorm of a pretrained CNN keeps its statistics unless `train_batchnorm`.
    """

    cut: str = "features"
    epochs: int = Field(ge=1, le=1000)
    rate: Rate
    batch: int = Field(default=16, ge=1)
    accumulate: int | None = Field(default=None, ge=1)
    warm_up: float = Field(default=0.0, ge=0)
    patience: int = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    train_batchnorm: bool = False

    @model_validator(mode="before")
    @classmethod
    def _patient_with_frames(cls, said: Any) -> Any:
        if isinstance(said, dict) and said.get("cut") == FRAMES:
            return {"patience": _PATIENCE} | said
        return said

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warm_up and self.warm_up >= self.epochs:
            raise ValueError(f"warm_up = {self.warm_up} leaves nothing of {self.epochs} epochs; shorten it")
        return self


class Training(Frozen):
    """All stages, one after the other, each from the weights of the one before.

    `clip_norm` bounds the norm of each variable's gradient, `clip_value` each of its values, one or the other. `weight_decay` is AdamW's.
    `places_weight` weighs the loss of the network's positions beside that of the clip. `memory_gib` is what decoded frames may take.
    `mixed_precision` computes in float16 `always`, or (`auto`) where there is a GPU; the network that is saved is float32.
    """

    seed: int = Field(default=0, ge=0)
    class_weights: bool = True
    clip_norm: float | None = Field(default=None, gt=0)
    clip_value: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    places_weight: float = Field(default=0.0, ge=0)
    memory_gib: float = Field(default=4.0, gt=0)
    mixed_precision: Literal["off", "auto", "always"] = "off"
    augmentation: Augmentation = Augmentation()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_way_of_clipping(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value are both given; choose one")
        return self


class CrossValidation(Frozen):
    """`folds` of whole groups; in each, `inner` of the groups' samples choose the epoch. `seeds` trainings per fold."""

    folds: int = Field(default=5, ge=2)
    seeds: int = Field(default=3, ge=1)
    inner_folds: int = Field(default=6, ge=2)
    floor_frames: int = Field(default=10, ge=2)
