"""Layers of Keras that have no place in a head, and what to use in their stead: said in the error that refuses them."""

from __future__ import annotations

from typing import Any

_CODE = "it holds code of its own, which a file cannot carry safely; build the model with layers and keras.ops in its place, and load the weights"
_PICTURE = "it works on pictures; put it before the features, in TimeDistributed"
_TRAINING = "it is for training; build the model for serving without it"
_WORDS = "it works on words or categories, and features have none"
_SOUND = "it works on sound; compute it before the service, whose clips are pictures"
_FRAMEWORK = "it runs another framework's code; export that model with marey-build export --from-onnx"
_POOL = "it has no ONNX operator; use pooling of a fixed window, or GlobalAveragePooling1D"
_BY_NAME = {
    "Lambda": _CODE,
    "TFSMLayer": "it is a SavedModel inside the model; load and export that with marey-build export",
    "FlaxLayer": _FRAMEWORK, "JaxLayer": _FRAMEWORK, "TorchModuleWrapper": _FRAMEWORK,
    **dict.fromkeys(("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing", "CategoryEncoding", "Discretization",
                     "ReversibleEmbedding"), _WORDS),
    **dict.fromkeys(("MelSpectrogram", "STFTSpectrogram"), _SOUND),
    **dict.fromkeys(("CutMix", "MixUp", "MaxNumBoundingBoxes", "Pipeline"), _TRAINING),
    **dict.fromkeys(("AdaptiveAveragePooling1D", "AdaptiveMaxPooling1D"), _POOL),
    "Conv1DTranspose": "use UpSampling1D and Conv1D",
    "GroupedQueryAttention": "use MultiHeadAttention, whose heads each have a key and a value",
    "Masking": "leave it out: no frame of a served clip is padding",
    "ConvLSTM1D": "it reads maps of features; it is exported as a clip network where it reads frames",
    **dict.fromkeys(("ConvLSTM2D", "ConvLSTM3D", "Conv3D", "Conv3DTranspose", "MaxPooling3D", "AveragePooling3D"),
                    "it reads frames, and these are features already; a model in which it reads frames is exported as a clip network"),
}  # fmt: skip


def replacement(operation: Any) -> str | None:
    """A sentence for a layer that cannot be written, None where nothing better is known than the list of those that can."""
    name, module = type(operation).__name__, type(operation).__module__
    if not module.startswith("keras."):
        return None
    picture = "image_preprocessing" in module or "2D" in name or "3D" in name
    return _BY_NAME.get(name, _PICTURE if picture else None)
