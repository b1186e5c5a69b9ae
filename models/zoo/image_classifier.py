"""A classifier of single images in the shape of a CNN-LSTM: frames are classified one by one, a clip by their average."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers

from models.errors import RecipeError
from models.zoo.architecture import ENCODE
from models.zoo.efficientnet_lite import efficientnet_lite0, imagenet_classifier_weights
from models.zoo.pooling import pooled
from service.bundle.manifest import Frozen, Input


class ImageNetClassifier(Frozen):
    """EfficientNet-Lite0 with its ImageNet classifier: nothing is trained."""

    name: Literal["imagenet_classifier"]

    @property
    def pretrained(self) -> bool:
        return True

    @property
    def trainable(self) -> bool:
        return False

    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002, ARG002 -- as every architecture's
        return imagenet_classifier(classes=classes, height=input.height, width=input.width)


def imagenet_classifier(*, classes: int = 1000, height: int = 224, width: int = 224) -> keras.Model:
    """Clips `[B, T, height, width, 3]` of 0…255 RGB → probabilities `[B, 1000]`: EfficientNet-Lite0 as it was trained on ImageNet.

    A clip's probabilities are the average over its frames; an image is a clip of one frame.
    """
    if classes != 1000:
        raise RecipeError(
            f"the ImageNet classifier has 1000 classes, not {classes}; for others choose architecture cnn_lstm"
        )
    clips = keras.Input((None, height, width, 3), name="clips")
    encoder = pooled(efficientnet_lite0(height=height, width=width))
    features = layers.TimeDistributed(encoder, name=ENCODE)(clips)
    classifier = layers.Dense(classes, activation="softmax", name="classify")
    average = layers.GlobalAveragePooling1D(name="average")
    model = keras.Model(clips, average(classifier(features)), name="imagenet")
    classifier.set_weights(list(imagenet_classifier_weights()))
    return model
