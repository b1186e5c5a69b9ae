"""CuDNNLSTM and CuDNNGRU of Keras 2 as the LSTM and GRU that they are: the same layer, whose weights cuDNN lays out in its own way.

cuDNN keeps each gate's kernels turned round, and two biases for each gate. The gates stand in the same order in both.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
# cuDNN knows no other activations. Its GRU resets behind the recurrent product.
_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "CuDNNLSTM": ("LSTM", {"activation": "tanh", "recurrent_activation": "sigmoid"}),
    "CuDNNGRU": ("GRU", {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}),
}
_LSTM, _GRU = 4, 3  # gates
_NAMES = ("kernel", "recurrent_kernel", "bias")


def plain_layers(config: Any) -> Any:
    """A model's description with LSTM for CuDNNLSTM and GRU for CuDNNGRU, wherever in it they stand."""
    if isinstance(config, Mapping):
        found = {key: plain_layers(value) for key, value in config.items()}
        name = found.get("class_name")
        if isinstance(name, str) and name in _PLAIN and isinstance(found.get("config"), dict):
            class_name, settings = _PLAIN[name]
            return {**found, "class_name": class_name, "config": {**found["config"], **settings}}
        return found
    return [plain_layers(each) for each in config] if isinstance(config, list) else config


def plain_weights(path: Path, *, folder: Path) -> Path:
    """The `.h5` of weights at `path`, or a copy in `folder` in which those of cuDNN's layers lie as those of LSTM and GRU."""
    with h5py.File(path) as file:
        if not any(True for _ in _of_cudnn(file)):
            return path
    copy = folder / "plain.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        for group, names in list(_of_cudnn(file)):
            arrays = [np.asarray(group[name], np.float32) for name in names]
            for name, array in zip(names, _plain(*arrays), strict=True):
                del group[name]
                group[name] = array
    return copy


def _of_cudnn(file: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Each layer's group and the names of the three tables in it that cuDNN laid out: their bias has twice as many values."""
    top = file["model_weights"] if "layer_names" not in file.attrs else file
    for layer in top.attrs["layer_names"]:
        group = top[layer]
        names = [_text(name) for name in group.attrs["weight_names"]]
        for start in range(len(names) - 2):
            three = tuple(names[start : start + 3])
            if all(name.split("/")[-1].split(":")[0] == wanted for name, wanted in zip(three, _NAMES, strict=True)):
                recurrent, bias = group[three[1]].shape, group[three[2]].shape
                gates = recurrent[1] / recurrent[0] if len(recurrent) == 2 else 0  # those of a ConvLSTM have 4 axes
                if gates in (_LSTM, _GRU) and bias == (2 * recurrent[1],):
                    yield group, three


def _plain(kernel: Array, recurrent_kernel: Array, bias: Array) -> tuple[Array, Array, Array]:
    """`[D, g·U]`, `[U, g·U]`, `[2·g·U]` → kernels of the same shapes, and the bias `[g·U]` of an LSTM or `[2, g·U]` of a GRU.

    As Keras 2 itself did it when such a file was loaded into an LSTM (`hdf5_format.py`, `_convert_rnn_weights`).
    """
    gates = recurrent_kernel.shape[1] // recurrent_kernel.shape[0]
    turned = [part.T.reshape(part.shape, order="F") for part in np.hsplit(kernel, gates)]
    recurrent = [part.T for part in np.hsplit(recurrent_kernel, gates)]
    both = bias.reshape(2, -1)
    return np.hstack(turned), np.hstack(recurrent), both.sum(axis=0) if gates == _LSTM else both


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
