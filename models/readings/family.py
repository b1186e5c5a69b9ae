"""Which network of keras.applications is inside a model, by the names of its layers, and what that was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from models.readings.walk import operations


@dataclass(frozen=True, slots=True)
class Family:
    """`preprocess`: what the family's own preprocess_input does, by its name on the command line."""

    name: str
    preprocess: str
    layers: frozenset[str]


def _family(name: str, preprocess: str, *layers: str) -> Family:
    return Family(name, preprocess, frozenset(layers))


# Told by names that only it has; the first that fits, since DenseNet and ResNet share some.
_FAMILIES = (
    _family("DenseNet", "torch", "conv2_block1_concat"),
    _family("ResNetV2", "tf", "conv2_block1_preact_bn"),
    _family("ResNet", "caffe", "conv1_conv", "conv2_block1_1_conv"),
    _family("Xception", "tf", "block1_conv1", "block14_sepconv2"),
    _family("VGG", "caffe", "block1_conv1", "block5_conv3"),
    _family("InceptionResNetV2", "tf", "mixed_5b", "conv_7b"),
    _family("InceptionV3", "tf", "mixed0", "mixed10"),
    _family("NASNet", "tf", "stem_conv1", "stem_bn1"),
    _family("MobileNetV2", "tf", "Conv1", "block_16_project"),
    _family("MobileNetV3", "tf", "conv", "expanded_conv_project"),
    _family("MobileNet", "tf", "conv1", "conv_pw_13"),
    _family("EfficientNet", "tf", "stem_conv", "block1a_project_conv"),
)


def family_of(model: Any) -> Family | None:
    """The family of `model`'s CNN, None where its layers have other names."""
    return by_names(str(getattr(operation, "name", "")) for operation, _ in operations(model))


def by_names(names: Iterable[str]) -> Family | None:
    """The same from the names of layers; a Keras 2 file may write them with a slash or a number at the end."""
    found = frozenset(name.replace("/", "_") for name in names)
    return next((family for family in _FAMILIES if family.layers <= found), None)
