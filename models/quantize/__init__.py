"""INT8: the encoder, or the clip network, with explicit, symmetric Q/DQ that TensorRT, TensorRT-RTX and OpenVINO all take."""

from models.quantize.bundle import CalibrationData, quantize_bundle
from models.quantize.legal import assert_legal
from models.quantize.qdq import quantize_network
from models.quantize.search import MIN_AGREEMENT
from models.quantize.trial import Trial

__all__ = ["MIN_AGREEMENT", "CalibrationData", "Trial", "assert_legal", "quantize_bundle", "quantize_network"]
