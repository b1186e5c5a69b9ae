"""What a client may ask by name: the whole of a model, from frames to probabilities, or one of its two networks.

`NAME` reads clips; `NAME.encoder` and `NAME.head` are what it consists of, and a clip network has no parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.api.v2.tensors import Spec
from service.bundle.manifest import Manifest, Stage
from service.engine.base import Outputs
from service.errors import InvalidParameter, UnknownModel
from service.replica import Asked

Part = Literal["encoder", "head"]
PARTS: tuple[Part, ...] = ("encoder", "head")


def split(name: str, models: Sequence[str]) -> tuple[str, Part | None]:
    """The model and the part that `name` means, where `models` are served: a bundle's own name may end in `.head` too."""
    if name not in models:
        for part in PARTS:
            if name.endswith(f".{part}"):
                return name.removesuffix(f".{part}"), part
    return name, None


@dataclass(frozen=True, slots=True)
class Ran:
    """`outputs` in the order of the network's own; `batch_size`: rows of its first stage that ran together."""

    outputs: Outputs
    batch_size: int
    queue_s: float
    run_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Network:
    """One input and several outputs, of some stages of a bundle."""

    manifest: Manifest
    part: Part | None
    stages: tuple[Stage, ...]
    input: Spec
    outputs: tuple[Spec, ...]  # `probabilities` first, wherever the graph has them

    @classmethod
    def of(cls, manifest: Manifest, part: Part | None) -> Network:
        """Raises UnknownModel where the model has no such part."""
        stages = manifest.network.stages
        if part is not None:
            if part not in stages:
                raise UnknownModel(
                    f"{manifest.name!r} is one network, it has no {part} apart; ask for {manifest.name!r}"
                )
            stages = (part,)
        given = Spec.of(manifest.artifacts[stages[0]].inputs[0])
        if len(stages) > 1:  # its frames come by clips
            given = Spec("clips", given.datatype, (-1, manifest.network.static_frames or -1, *given.shape[1:]))
        answers = (Spec.of(tensor) for tensor in manifest.artifacts[stages[-1]].outputs)
        return cls(manifest, part, stages, given, tuple(sorted(answers, key=lambda spec: spec.name != "probabilities")))

    @classmethod
    def all_of(cls, manifest: Manifest) -> tuple[Network, ...]:
        parts = PARTS if manifest.network.kind == "encoder_head" else ()
        return tuple(cls.of(manifest, part) for part in (None, *parts))

    @property
    def name(self) -> str:
        return self.manifest.name + (f".{self.part}" if self.part else "")

    @property
    def reads_clips(self) -> bool:
        """Whether the second axis of its input is time."""
        return self.part != "encoder"

    def rows(self, shape: Sequence[int], *, limit: int) -> int:
        """What an input of `shape` weighs in the queue: frames, or clips of a head. Raises InvalidParameter."""
        fixed, most = self.manifest.network.static_frames, self.manifest.sampling.max_frames
        if self.reads_clips and fixed is None and shape[1] > most:
            raise InvalidParameter(
                f"input {self.input.name!r} has clips of {shape[1]} frames, this model takes up to {most}; send shorter ones"
            )
        rows = shape[0] * shape[1] if self.reads_clips and self.part is None else shape[0]
        if rows > limit:
            raise InvalidParameter(
                f"input {self.input.name!r} has {rows} rows for the device, {limit} are allowed in one request; "
                "send several, or raise MAREY_MAX_QUEUED_ROWS"
            )
        return rows

    def answers(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shape of each output for an input of `shape`: what is of any length there is as long as the input, or its clips."""
        return {
            spec.name: (shape[0], *(shape[1] if length == -1 else length for length in spec.shape[1:]))
            for spec in self.outputs
        }

    async def run(self, asked: Asked, tensor: NDArray[np.generic]) -> Ran:
        """`tensor` through the stages. Raises what `Asked` raises."""
        rows, queue_s, run_s, batch = tensor, 0.0, dict[str, float](), 0
        outputs: Outputs = {}
        for stage in self.stages:
            if stage == "encoder":
                rows = rows.reshape(-1, *rows.shape[-3:])
            elif self.part is None and stage == "head":
                rows = outputs["features"].reshape(*tensor.shape[:2], -1)
            ran = await asked.run(stage, rows)
            outputs, batch = ran.outputs, batch or ran.batch_size
            queue_s, run_s[stage] = queue_s + ran.queue_s, ran.run_s
        if self.part != "head":
            asked.note(tensor if self.reads_clips else tensor[:, None])
        return Ran({spec.name: outputs[spec.name] for spec in self.outputs}, batch, queue_s, run_s)
