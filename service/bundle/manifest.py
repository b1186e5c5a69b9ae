"""`manifest.json`: the contract between the exporter and the service.

Frozen: a manifest is read once and passed around. Unknown fields are refused, so that a misspelled one cannot be ignored.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle.frame_statistics import FrameStatistics

SCHEMA_VERSION = 1
# What a bundle and its version may be called: both become part of addresses and file names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"

Task = Literal["image", "video"]
Color = Literal["rgb", "gray"]
Precision = Literal["fp32", "fp16", "int8"]
Role = Literal["encoder", "encoder.int8", "head", "clip", "clip.int8"]
Kind = Literal["encoder_head", "clip"]
Stage = Literal["encoder", "head", "clip"]

# The networks that rows go through, in order. Frames enter the first: it alone is ever INT8.
_STAGES: dict[Kind, tuple[Stage, ...]] = {"encoder_head": ("encoder", "head"), "clip": ("clip",)}
_QUANTIZED: dict[Stage, Role] = {"encoder": "encoder.int8", "clip": "clip.int8"}


class Frozen(BaseModel):
    """A value: immutable, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Resize(Frozen):
    """How a frame of any size becomes height × width.

    `squash` ignores the aspect; `crop` scales the short side to `short_side`, then cuts the centre; `pad` fits the whole
    frame and fills the rest with black. Downscaling averages areas, upscaling is bilinear.
    """

    rule: Literal["squash", "crop", "pad"] = "squash"
    short_side: int | None = Field(default=None, ge=1, le=4096)

    @model_validator(mode="after")
    def _short_side_belongs_to_crop(self) -> Self:
        if (self.rule == "crop") != (self.short_side is not None):
            raise ValueError(
                f'short_side is given with rule "crop" and only then; got rule "{self.rule}" and short_side {self.short_side or "not given"}'
            )
        return self


class Step(Frozen):
    """One named, versioned step outside the graph, with its parameters."""

    name: str
    version: int = Field(default=1, ge=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class Input(Frozen):
    """What a frame is when it enters the network: `[height, width, channels]` uint8."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    color: Color = "rgb"
    resize: Resize = Resize()
    preprocess: tuple[Step, ...] = ()

    @property
    def channels(self) -> int:
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        side = self.resize.short_side
        if side is not None and side < max(self.height, self.width):
            raise ValueError(f"resize.short_side = {side} is smaller than the crop {self.height}×{self.width}")
        return self


class Sampling(Frozen):
    """Which frames of a video are looked at. `uniform`: `frames` of them over the whole clip; `fps`: `fps` a second."""

    strategy: Literal["uniform", "fps"] = "uniform"
    frames: int = Field(default=16, ge=1)
    fps: float | None = Field(default=None, gt=0)
    max_frames: int = Field(default=64, ge=1, le=1024)
    short_clip: Literal["as_is", "repeat"] = "as_is"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.strategy == "fps") != (self.fps is not None):
            raise ValueError(f"fps is given with strategy 'fps' and only then; got {self.strategy = }, {self.fps = }")
        if self.frames > self.max_frames:
            raise ValueError(f"sampling.frames = {self.frames} exceeds max_frames = {self.max_frames}")
        return self


class Grid(Frozen):
    """Where the places of `positions` lie: in `rows` × `columns` equal cells of the picture as the network sees it, after its resize rule.

    They are numbered from the top left, row after row: `raster` each from left to right, `boustrophedon` every second one from
    right to left, so that one place and the next always touch. `background`: the label of a place that shows nothing of note.
    """

    rows: int = Field(ge=1, le=256)
    columns: int = Field(ge=1, le=256)
    order: Literal["raster", "boustrophedon"] = "raster"
    background: str | None = None

    @property
    def places(self) -> int:
        return self.rows * self.columns

    @property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each place, from 0, by its number."""
        turns = self.order == "boustrophedon"
        return tuple(
            (row, self.columns - 1 - step if turns and row % 2 else step)
            for row in range(self.rows)
            for step in range(self.columns)
        )


class Network(Frozen):
    """`encoder_head`: two graphs, N, B and T dynamic. `clip`: one graph; `static_frames` is its T where that is fixed.

    `attention` `[B, T]` and `positions` `[B, P, K]`, probabilities of every step or place, are further outputs of the last graph.
    `grid` says where the places are, if they are places of a picture and that is known.
    """

    kind: Kind = "encoder_head"
    feature_dim: int | None = Field(default=None, ge=1)
    static_frames: int | None = Field(default=None, ge=1)
    attention: bool = False
    positions: bool = False
    grid: Grid | None = None
    multi_label: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The networks that rows go through, in order; frames enter the first."""
        return _STAGES[self.kind]


class Tensor(Frozen):
    """Name, dtype and shape of one input or output; a dynamic axis is its symbol, such as "N"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Artifact(Frozen):
    """One ONNX file of the bundle."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=1)
    precision: Precision
    weights: Literal["float32", "float16", "int8"]
    opset: int = Field(ge=18)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Golden(Frozen):
    """`golden.npz`: `frames` uint8 [B, T, H, W, C], `features` float32 [B, T, D] (not for a clip network) and
    `probabilities` float32 [B, K] as the float reference gave them; the largest |Δp| that each precision may show.
    """

    file: str = "golden.npz"
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tolerance: dict[Precision, float]


class Calibration(Frozen):
    """What the INT8 ranges were taken from. `forced`: what was wrong with the result that was insisted on; `statistics`: of its frames."""

    data: str
    data_sha256: str
    split: str | None = None
    frames: int = Field(ge=1)
    method: str
    quantizer: str
    skipped: tuple[str, ...] = ()
    forced: str | None = None
    statistics: FrameStatistics | None = None


class Metric(Frozen):
    """Figures of one precision on one split, with n and a 95 % interval (Wilson) on the accuracy.

    `auc`: area under the ROC curve, where a recipe asks for it: of class 1 with two classes, else the mean of each against the rest.
    """

    precision: Precision
    engine: str
    split: str
    n: int = Field(ge=1)
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5_accuracy: float | None = None
    macro_f1: float
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    agreement: float | None = None


class Provenance(Frozen):
    """Where the model comes from: enough to make it again, and to know whether it may be used."""

    recipe: str | None = None
    recipe_sha256: str | None = None
    source_sha256: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    data: str | None = None
    data_source: str | None = None
    data_license: str | None = None
    weights_source: str | None = None
    weights_license: str | None = None
    command: str | None = None


class Manifest(Frozen):
    """Everything needed to use a bundle."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: str = Field(pattern=VERSION)
    description: str = ""
    tasks: tuple[Task, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2)
    input: Input
    sampling: Sampling
    network: Network
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    postprocess: tuple[Step, ...] = ()
    artifacts: dict[Role, Artifact]
    golden: Golden
    calibration: Calibration | None = None
    metrics: tuple[Metric, ...] = ()
    provenance: Provenance = Provenance()

    def role(self, stage: Stage, precision: Precision) -> Role:
        """The artifact that runs as `stage` at `precision`."""
        return _QUANTIZED.get(stage, stage) if precision == "int8" else stage

    @property
    def quantized(self) -> bool:
        """Whether there is an INT8 artifact."""
        return self.role(self.network.stages[0], "int8") in self.artifacts

    @property
    def tells_places(self) -> bool:
        """Whether `positions` cannot be frames: their number is fixed, and that of the frames is not."""
        last = self.network.stages[-1]
        return isinstance(self._places(last), int) and not isinstance(self._length(last), int)

    def _places(self, stage: Stage) -> int | str | None:
        """P of the output `positions`; None where there is no such output."""
        return next((tensor.shape[1] for tensor in self.artifacts[stage].outputs if tensor.name == "positions"), None)

    def _length(self, stage: Stage) -> int | str | None:
        """The axis of time of what goes in; None of an encoder, whose rows are frames."""
        inputs = self.artifacts[stage].inputs
        return inputs[0].shape[1] if stage != "encoder" and inputs and len(inputs[0].shape) > 1 else None

    @model_validator(mode="after")
    def _artifacts_fit_the_network(self) -> Self:
        needed: set[Role] = set(self.network.stages)
        allowed = needed | {self.role(stage, "int8") for stage in self.network.stages}
        missing, foreign = needed - set(self.artifacts), set(self.artifacts) - allowed
        if missing or foreign:
            raise ValueError(
                f"a {self.network.kind} bundle holds {sorted(allowed)}; missing {sorted(missing)}, foreign {sorted(foreign)}"
            )
        for stage in self.network.stages:
            length = self._length(stage)
            if isinstance(length, int) and length != self.network.static_frames:
                raise ValueError(
                    f"{self.artifacts[stage].file} takes {length} frames and no other number, network.static_frames says {self.network.static_frames}"
                )
        if (grid := self.network.grid) is not None:
            count = self._places(self.network.stages[-1])
            if count != grid.places:
                raise ValueError(
                    f"network.grid is {grid.rows}×{grid.columns}, the network answers for {count or 'no'} places; they must be as many"
                )
            if grid.background not in (None, *self.labels):
                raise ValueError(f"network.grid.background {grid.background!r} is none of the labels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat; each class needs a name of its own")
        return self
