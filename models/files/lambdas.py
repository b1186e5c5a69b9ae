"""Lambda layers: Python code in a model's file. Found in its description, before anything of it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import ExportRefused

REPLACEMENT = (
    "replace it by a layer or by keras.ops, which carry no code of their own: Rescaling for x / 255, "
    "keras.ops.mean(x, axis=1) for a mean over time, a Layer class with --model-code and --trust for the rest"
)


def lambda_layers(config: Any) -> Iterator[str]:
    """The names of all Lambda layers in a model's description, those in nested models and wrappers too."""
    if isinstance(config, dict):
        if config.get("class_name") == "Lambda":
            inner = config.get("config")
            yield str(config.get("name") or (inner.get("name") if isinstance(inner, dict) else None) or "lambda")
        for each in config.values():
            yield from lambda_layers(each)
    elif isinstance(config, list):
        for each in config:
            yield from lambda_layers(each)


def refuse_lambdas(path: Path, config: Any, *, trustable: bool) -> None:
    """Raise ExportRefused with the names of the Lambda layers in `config`, if there are any. `trustable`: --trust would run them."""
    names = list(dict.fromkeys(lambda_layers(config)))
    if names:
        many = len(names) > 1
        raise ExportRefused(
            f"{path} holds the Lambda layer{'s' if many else ''} {', '.join(map(repr, names))}, "
            f"whose code would run as it is loaded; {REPLACEMENT}"
            + ("; or run it with --trust where you trust the file's author" if trustable else "")
        )
