"""Models that come as ONNX, from PyTorch or elsewhere."""

from models.export.from_onnx.file import OnnxFile
from models.export.from_onnx.networks import onnx_networks

__all__ = ["OnnxFile", "onnx_networks"]
