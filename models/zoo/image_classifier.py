"""A classifier of single images in the shape of a CNN-LSTM: frames are classified one by one, a clip by their average."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from typing_extensions import override

from models.errors import RecipeError
from models.zoo.architecture import Architecture
from models.zoo.efficientnet_lite import efficientnet_lite0, imagenet_classifier_weights
from models.zoo.stem import encoded
from service.bundle.manifest import Input


class ImageNetClassifier(Architecture):
    """EfficientNet-Lite0 with its ImageNet classifier: nothing is trained, and nothing of ours lies between the two, as in `cnn`."""

    name: Literal["imagenet_classifier"]

    @property
    @override
    def pretrained(self) -> bool:
        return True

    @property
    @override
    def trainable(self) -> bool:
        return False

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, T, H, W, 3]` of 0…255 RGB → probabilities `[B, 1000]`; raises RecipeError for another number of classes.

        A clip's probabilities are the average over its frames; an image is a clip of one frame.
        """
        if classes != 1000:
            raise RecipeError(
                f"the ImageNet classifier has 1000 classes, not {classes}; for others choose architecture cnn_lstm"
            )
        clips, features = encoded(efficientnet_lite0(height=input.height, width=input.width), grid=(1, 1))
        classifier = layers.Dense(classes, activation="softmax", name="classify")
        average = layers.GlobalAveragePooling1D(name="average")
        model = keras.Model(clips, average(classifier(features)), name="imagenet")
        classifier.set_weights(list(imagenet_classifier_weights()))
        return model
