"""What goes wrong offline, in the same tree as the service's errors: one clear sentence with the value and the remedy.

MareyError
└── BuildError       the offline half
    ├── DataError    a data set is not what it should be
    ├── RecipeError  a recipe cannot be read, or asks for what there is not
    ├── WeightsError pretrained weights are missing or damaged
    ├── ExportRefused a model, or a graph made from it, cannot be exported as it is
    │   └── NotSplittable frames meet before there are features of each: no encoder of single frames, but a clip network may do
    └── QuantizationRefused an INT8 graph cannot be made, or would lose too much
"""

from __future__ import annotations

from service.errors import MareyError


class BuildError(MareyError):
    code, title = "build", "Build failed"


class DataError(BuildError):
    code, title = "data", "Data refused"


class RecipeError(BuildError):
    code, title = "recipe", "Recipe refused"


class WeightsError(BuildError):
    code, title = "weights", "Weights refused"


class ExportRefused(BuildError):
    code, title = "export", "Export refused"


class NotSplittable(ExportRefused):
    pass


class QuantizationRefused(BuildError):
    code, title = "quantization", "Quantization refused"
