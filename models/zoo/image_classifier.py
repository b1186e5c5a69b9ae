"""A classifier of single images in the shape of a CNN-LSTM: frames are classified one by one, a clip by their average."""

from __future__ import annotations

import keras
from keras import layers

from models.errors import RecipeError
from models.zoo.efficientnet_lite import efficientnet_lite0, imagenet_classifier_weights
from models.zoo.pooling import pooled


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
    features = layers.TimeDistributed(encoder, name="encode")(clips)
    classifier = layers.Dense(classes, activation="softmax", name="classify")
    average = layers.GlobalAveragePooling1D(name="average")
    model = keras.Model(clips, average(classifier(features)), name="imagenet")
    classifier.set_weights(list(imagenet_classifier_weights()))
    return model
