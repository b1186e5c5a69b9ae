"""Every architecture that a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.zoo.cnn3d import Cnn3d
from models.zoo.cnn_lstm import CnnLstm
from models.zoo.convlstm import ConvLstm
from models.zoo.image_classifier import ImageNetClassifier
from models.zoo.lite_lstm import LiteLstm
from models.zoo.row_lstm import RowLstm
from models.zoo.row_lstm_regularized import RowLstmRegularized
from models.zoo.small_cnn import SmallCnn

AnyArchitecture = Annotated[
    Cnn3d | CnnLstm | ConvLstm | ImageNetClassifier | LiteLstm | RowLstm | RowLstmRegularized | SmallCnn,
    Field(discriminator="name"),
]
