"""What only Keras 2 can read goes through it, in a process of its own; what comes back must answer as Keras 2 did."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.files.kind import Kind

LIMIT = 1e-4  # of the largest answer, or of 1 where that is larger
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class FromKeras2:
    """`file`: the same model as `.h5`; `samples`: inputs and Keras 2's answers to them."""

    file: Path
    samples: tuple[tuple[list[NDArray[Any]], list[NDArray[Any]]], ...]


def is_there() -> bool:
    """Whether tf-keras is installed."""
    return importlib.util.find_spec("tf_keras") is not None


@contextmanager
def through_tf_keras(path: Path, kind: Kind, config: Mapping[str, Any]) -> Iterator[FromKeras2]:
    """The model at `path`, described by `config`, read by tf-keras; the files are gone afterwards. Raises ExportRefused in one sentence."""
    if not is_there():
        raise ExportRefused(
            f"{path} was written by Keras 2, which Keras 3 cannot read; install the tf-keras of your TensorFlow "
            f"(pip install --no-deps tf-keras=={_tensorflow()}.*), "
            "or load it where it was made and save it with model.save('model.h5')"
        )
    with tempfile.TemporaryDirectory(prefix="marey-keras2-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        command = [sys.executable, "-m", "models.files.tf_keras_child", str(path.resolve()), kind, str(folder)]
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_USE_LEGACY_KERAS": "1",
        }
        root = Path(__file__).parents[2]
        try:
            done = subprocess.run(  # noqa: S603 -- our own module, by our own interpreter
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExportRefused(f"{path} kept tf-keras busy for {_TIMEOUT_S} s; save the model with Keras 3") from None
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            raise ExportRefused(
                f"{path} cannot be read by tf-keras either ({lines[-1] if lines else f'it ended with {done.returncode}'}); "
                "load it where it was made and save it with model.save('model.h5')"
            )
        yield FromKeras2(folder / "model.h5", _samples(folder / "samples.npz"))


def compare(model: keras.Model, found: FromKeras2, *, path: Path) -> float:
    """The largest difference between `model` and Keras 2 on the samples; raises ExportRefused past 1e-4."""
    worst = 0.0
    for inputs, wanted in found.samples:
        outputs = keras.tree.flatten(model(inputs[0] if len(inputs) == 1 else inputs, training=False))
        if [tuple(each.shape) for each in outputs] != [each.shape for each in wanted]:
            raise ExportRefused(
                f"{path} gives {[list(each.shape) for each in wanted]} in Keras 2 and {[list(each.shape) for each in outputs]} in Keras 3; "
                "save the model with Keras 3"
            )
        for ours, theirs in zip(outputs, wanted, strict=True):
            size = max(1.0, float(np.abs(theirs).max()))
            worst = max(worst, float(np.abs(np.asarray(ours) - theirs).max()) / size)
    if not worst <= LIMIT:
        raise ExportRefused(
            f"{path} answers otherwise in Keras 3 than in Keras 2 (by {worst:.2g}, the limit is {LIMIT:g}); rebuild the model in Keras 3 and load the weights into it"
        )
    return worst


def _tensorflow() -> str:
    """The version whose tf-keras fits: the first two numbers."""
    import tensorflow as tf  # noqa: PLC0415 -- Keras has loaded it

    return ".".join(tf.__version__.split(".")[:2])


def _samples(file: Path) -> tuple[tuple[list[NDArray[Any]], list[NDArray[Any]]], ...]:
    with np.load(file, allow_pickle=False) as arrays:
        numbers = sorted({name[1] for name in arrays})
        return tuple(
            tuple(
                [arrays[name] for name in sorted(arrays, key=_place) if name.startswith(f"{side}{number}_")]
                for side in "xy"
            )  # type: ignore[misc]
            for number in numbers
        )


def _place(name: str) -> int:
    return int(name.partition("_")[2])
