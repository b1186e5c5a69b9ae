"""How far an INT8 network is from its float one, on labelled clips: what methods, repairs and plans are chosen by."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from models.export.runtime import Runtime
from models.quantize.measure import OpenVino, hints
from service.media.sample import uniform

_TINY = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Clips `[T, H, W, C]` of one split, none of which gave a range, and their class ids `truth` `[B]`."""

    split: str
    clips: tuple[NDArray[np.uint8], ...]
    truth: NDArray[np.int64]

    @property
    def frames(self) -> int:
        return sum(map(len, self.clips))

    def thinned(self, *, clips: int, frames: int | None) -> Trial:
        """`clips` of them at most, spread over all, each with `frames` of its own at most."""
        picked = np.unique(np.linspace(0, len(self.clips) - 1, min(clips, len(self.clips))).round().astype(int))
        kept = [self.clips[number] for number in picked]
        if frames is not None:
            kept = [clip[list(uniform(len(clip), min(frames, len(clip))))] for clip in kept]
        return replace(self, clips=tuple(kept), truth=self.truth[picked])


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over the clips of a trial, against float. `kl`: divergence of the probabilities in nats; `feature_cosine`: of each frame's features,
    None of a clip network; `drop`: accuracy of float minus that of INT8; `frames_per_s`: of the network that is INT8, on this machine.
    """

    kl: float
    top1_agreement: float
    feature_cosine: float | None
    accuracy: float
    drop: float
    frames_per_s: float


class Reference:
    """The float network on a trial, which others are compared with: its `answers` `[B, K]`, `accuracy` and frames a second."""

    def __init__(self, floats: bytes, head: bytes | None, trial: Trial) -> None:
        self.trial = trial
        self._head = None if head is None else Runtime(head)
        self._hint = hints("clip" if head is None else "encoder")[-1]
        self._features, self.answers, self.frames_per_s = self._run(floats, hint="f32")
        self.accuracy = self.right(self.answers)

    def compare(self, int8: onnx.ModelProto, *, exact: bool = False) -> Fidelity:
        """`exact`: what is float in it runs in f32, and not, as it is served, in bf16 where this CPU has that."""
        features, answers, speed = self._run(int8.SerializeToString(), hint="f32" if exact else self._hint)
        p, q = (np.clip(rows, _TINY, 1.0) for rows in (self.answers, answers))
        accuracy = self.right(answers)
        return Fidelity(
            kl=float((p * np.log(p / q)).sum(axis=1).mean()),
            top1_agreement=float((self.answers.argmax(axis=1) == answers.argmax(axis=1)).mean()),
            feature_cosine=None if self._head is None else _cosine(self._features, features),
            accuracy=accuracy,
            drop=self.accuracy - accuracy,
            frames_per_s=speed,
        )

    def _run(self, network: bytes, *, hint: str) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """Features `[M, D]` of all frames (of a clip network its answers), probabilities `[B, K]`, frames a second."""
        clips = self.trial.clips
        engine = OpenVino(network, hint=hint, batch=16 if self._head else 1)
        engine(clips[0] if self._head else clips[0][None])  # the first run is slower
        began = time.perf_counter()
        if self._head is None:
            answers = np.concatenate([engine(clip[None]) for clip in clips])
            return answers, answers, self.trial.frames / (time.perf_counter() - began)
        features = engine(np.concatenate(clips))
        speed = self.trial.frames / (time.perf_counter() - began)
        answers = np.concatenate([self._head(part[None])["probabilities"] for part in self._parts(features)])
        return features, answers, speed

    @property
    def parts(self) -> list[NDArray[np.float32]]:
        """The float features `[T, D]` of each clip, before a head."""
        return self._parts(self._features)

    def _parts(self, features: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return np.split(features, np.cumsum([len(clip) for clip in self.trial.clips])[:-1])

    def right(self, answers: NDArray[np.float32]) -> float:
        """The share of the clips for which `answers` `[B, K]` name the true class."""
        return float((answers.argmax(axis=1) == self.trial.truth).mean())


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / np.maximum(norms, 1e-12)).mean())
