"""Every architecture that a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.zoo.cnn import Cnn
from models.zoo.cnn3d import Cnn3d
from models.zoo.cnn_lstm import CnnLstm
from models.zoo.cnn_seq_image import CnnSeqImage
from models.zoo.cnn_transformer_lstm import CnnTransformerLstm
from models.zoo.convlstm import ConvLstm
from models.zoo.defect_bilstm import DefectBilstm
from models.zoo.image_classifier import ImageNetClassifier
from models.zoo.lite_lstm import LiteLstm
from models.zoo.patch_bilstm import PatchBiLstm
from models.zoo.row_lstm import RowLstm
from models.zoo.row_lstm_regularized import RowLstmRegularized
from models.zoo.small_cnn import SmallCnn

AnyArchitecture = Annotated[
    Cnn
    | Cnn3d
    | CnnLstm
    | CnnSeqImage
    | CnnTransformerLstm
    | ConvLstm
    | DefectBilstm
    | ImageNetClassifier
    | LiteLstm
    | PatchBiLstm
    | RowLstm
    | RowLstmRegularized
    | SmallCnn,
    Field(discriminator="name"),
]
