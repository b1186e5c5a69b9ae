"""Makes the ONNX files beside this: `python make.py`, with torch 2.13.0, onnx 1.23.2 and onnxscript 0.7.2, none of them Marey's.

A CNN-LSTM, a 3D CNN and an image network as PyTorch's users write them, by the exporter of old and by that of torch.export; random
weights, made decisive: scores differ between clips.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn


class CnnLstm(nn.Module):
    """Clips `[B, T, 3, H, W]`: time folded into the batch by view, a CNN, two bidirectional LSTMs, the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.lstm = nn.LSTM(12, 10, batch_first=True, bidirectional=True, num_layers=2)
        self.fc = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c, h, w = x.shape
        features = self.cnn(x.view(b * t, c, h, w)).view(b, t, -1)
        sequence, _ = self.lstm(features)
        return self.fc(sequence[:, -1])


class Volume(nn.Module):
    """Clips `[B, 3, T, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4), nn.Softmax(-1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Image(nn.Module):
    """Frames `[N, 3, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def decisive(model: nn.Module, x: torch.Tensor) -> None:
    """BatchNorm statistics of real activations, and a last layer that spreads the scores."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.6, 1.4)
    with torch.no_grad():
        model(x)
        *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
        last.weight *= 40
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                for name, parameter in module.named_parameters():
                    parameter.mul_(4 if "weight_ih" in name else 1)
    model.eval()


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Fields of colour, bright or dark; what the answers in `scores.npz` were given to. Models are fed these / 255."""
    random = np.random.default_rng(1)
    fields = random.integers(0, 256, (*shape[:-2], 3, 3)) * random.uniform(0, 1, (shape[0], *[1] * (len(shape) - 1)))
    return fields.repeat(shape[-2] // 3, axis=-2).repeat(shape[-1] // 3, axis=-1).astype(np.uint8)


def main() -> None:
    torch.manual_seed(0)
    scores = {}
    for name, model, shape, axes in (
        ("cnn_lstm", CnnLstm(), (4, 5, 3, 24, 24), {0: "batch", 1: "time"}),
        ("volume", Volume(), (4, 3, 8, 24, 24), {0: "batch", 2: "time"}),
        ("image", Image(), (1, 3, 24, 24), None),
    ):
        x = torch.zeros(shape)
        fed = torch.tensor(pixels((3, *shape[1:])) / 255, dtype=torch.float32)
        decisive(model, fed)
        dynamic = axes and {"x": axes, "scores": {0: "batch"}}
        common = {"input_names": ["x"], "output_names": ["scores"]}
        torch.onnx.export(model, (x,), f"{name}.onnx", dynamo=False, opset_version=17, dynamic_axes=dynamic, **common)
        if name == "cnn_lstm":
            sizes = ({axis: torch.export.Dim(size) for axis, size in axes.items()},)
            torch.onnx.export(
                model, (x,), f"{name}_dynamo.onnx", dynamo=True, external_data=False, dynamic_shapes=sizes, **common
            )
            anonymous(f"{name}_dynamo.onnx")
        with torch.no_grad():
            scores[name] = model(fed).numpy()
    np.savez("scores.npz", **scores)


def anonymous(file: str) -> None:
    """The new exporter writes down where each line of the model lies on its author's disk."""
    model = onnx.load(file)
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
    onnx.save(model, file)


if __name__ == "__main__":
    main()
