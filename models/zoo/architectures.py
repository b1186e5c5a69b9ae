"""Every architecture that a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.zoo.cnn_lstm import CnnLstm
from models.zoo.image_classifier import ImageNetClassifier

AnyArchitecture = Annotated[
    CnnLstm | ImageNetClassifier,
    Field(discriminator="name"),
]
