"""Handwritten digits and a classifier of them: three convolutions, and a logistic regression on their features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from models.export.artifact import artifact
from models.export.runtime import Runtime
from models.quantize import Trial
from service.bundle.manifest import Golden, Input, Manifest, Network, Sampling
from service.bundle.store import Bundle, sha256, write_bundle
from tests.models.quantize.drawn import Drawing, mean_head

SIDE = 16
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": slice(0, 1000), "val": slice(1000, 1200), "test": slice(1200, 1600)}
_WIDTHS = (8, 16, 24)
_HOT = 5  # the channel that is made hot


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """`frames` `[1600, 16, 16, 3]` with their `truth`, and the float graphs that tell them apart."""

    frames: NDArray[np.uint8]
    truth: NDArray[np.int64]
    encoder: onnx.ModelProto
    head: onnx.ModelProto

    def part(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.frames[SPLITS[split]], self.truth[SPLITS[split]]

    @property
    def rows(self) -> NDArray[np.uint8]:
        """What ranges are taken from."""
        return self.frames[:256]

    def trial(self, count: int = 200) -> Trial:
        frames, truth = self.part("val")
        return Trial("val", tuple(frame[None] for frame in frames[:count]), truth[:count])


def learned(*, activation: str = "Relu") -> Digits:
    """Of ReLU or of `Clip` from 0 to 10⁶, which is the same for every number that occurs."""
    grey, truth = load_digits(return_X_y=True)
    large = np.kron(grey.reshape(-1, 8, 8)[:1600] * 15, np.ones((1, 2, 2))).astype(np.uint8)
    frames, labels = large[..., None].repeat(3, axis=-1), truth[:1600].astype(np.int64)
    drawing = Drawing(side=SIDE, seed=3)
    source = "planes"
    for number, width in enumerate(_WIDTHS, 1):
        source = drawing.conv(source, width, name=f"conv{number}", stride=1 if number == 1 else 2)
        if activation == "Relu":
            source = drawing.relu(source, name=f"act{number}")
        else:
            source = drawing.clip(source, name=f"act{number}", most=1e6)
    drawing.flat(source, size=2, width=4 * _WIDTHS[-1])
    encoder = drawing.model(features=["N", 4 * _WIDTHS[-1]])
    train = SPLITS["train"]
    features = Runtime(encoder)(frames[train])["features"]
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    decides = LogisticRegression(max_iter=300).fit((features - mean) / spread, labels[train])
    dense = (decides.coef_ / spread).T.astype(np.float32)
    bias = (decides.intercept_ - (decides.coef_ * mean / spread).sum(axis=1)).astype(np.float32)
    return Digits(frames, labels, encoder, mean_head(dense, bias))


def hostile(encoder: onnx.ModelProto, *layers: int, factor: float = 200) -> onnx.ModelProto:
    """The same function in float: one channel behind each of the convolutions `layers` scaled, its readers divided."""
    changed = onnx.ModelProto.FromString(encoder.SerializeToString())
    held = {tensor.name: tensor for tensor in changed.graph.initializer}

    def scale(name: str, place: tuple[slice | int, ...], by: float) -> None:
        values = numpy_helper.to_array(held[name]).copy()
        values[place] *= np.float32(by)
        held[name].CopyFrom(numpy_helper.from_array(values, name))

    for layer in layers:
        scale(f"conv{layer}/kernel", (_HOT,), factor)
        scale(f"conv{layer}/bias", (_HOT,), factor)
        scale(f"conv{layer + 1}/kernel", (slice(None), _HOT), 1 / factor)
    return changed


def right(answers: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    return float((answers.argmax(axis=1) == truth).mean())


def said(encoder: onnx.ModelProto, head: onnx.ModelProto, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities `[N, K]`, each frame a clip of its own."""
    features = Runtime(encoder)(frames)["features"]
    return Runtime(head)(features[:, None])["probabilities"]


def make_bundle(path: Path, digits: Digits, encoder: onnx.ModelProto) -> Bundle:
    """A float bundle of `encoder` before the head of `digits`."""
    graphs = {"encoder": encoder, "head": digits.head}
    files = {f"{role}.onnx": graph.SerializeToString(deterministic=True) for role, graph in graphs.items()}
    golden = digits.part("test")[0][:4, None]
    features = Runtime(encoder)(golden[:, 0])["features"][:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f"{path.name}.npz"
    np.savez_compressed(
        scratch, frames=golden, features=features, probabilities=Runtime(digits.head)(features)["probabilities"]
    )
    files["golden.npz"] = scratch.read_bytes()
    scratch.unlink()
    manifest = Manifest(
        name="digits",
        version="1.0.0",
        tasks=("image",),
        labels=LABELS,
        input=Input(height=SIDE, width=SIDE),
        sampling=Sampling(frames=1, max_frames=4),
        network=Network(feature_dim=features.shape[-1]),
        artifacts={
            role: artifact(files[f"{role}.onnx"], f"{role}.onnx", precision="fp32", weights="float32")
            for role in graphs
        },  # type: ignore[arg-type]
        golden=Golden(sha256=sha256(files["golden.npz"]), tolerance={"fp32": 1e-4}),
    )
    return write_bundle(path, manifest, files)


def make_dataset(root: Path, digits: Digits, *, share: int = 1) -> Path:
    """The digits as pictures with splits, every `share`-th of each."""
    root.mkdir(parents=True)
    lines = ["path,label,group,split"]
    for split, part in SPLITS.items():
        for number in range(part.start, part.stop, share):
            cv2.imwrite(str(root / f"{number}.png"), digits.frames[number])
            lines.append(f"{number}.png,{LABELS[digits.truth[number]]},{number},{split}")
    (root / "splits.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
