"""The user's own Python: it builds the model that weights belong to, or defines the classes of its layers. Runs under --trust only."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from models.errors import ExportRefused

_DEFAULTS = ("build_model", "model")
_MODULE = "marey_model_code"


@dataclass(frozen=True, slots=True)
class ModelCode:
    """`file` and the name in it that makes the model; None: `build_model`, else `model`."""

    file: Path
    function: str | None = None

    @classmethod
    def parse(cls, text: str, *, trust: bool) -> ModelCode:
        """From `FILE.py[:FUNCTION]`; raises ExportRefused unless `trust`."""
        name, _, function = (
            text.rpartition(":") if text.rpartition(":")[2].isidentifier() and ":" in text else (text, "", "")
        )
        if not trust:
            raise ExportRefused(f"--model-code {text} would run the code in {name}; add --trust if you trust it")
        if not Path(name).is_file():
            raise ExportRefused(f"--model-code {name} is no file; give a Python file as FILE.py or FILE.py:FUNCTION")
        return cls(Path(name), function or None)

    def open(self) -> Opened:
        """Run the file. Whatever it raises is told as ExportRefused with its last line."""
        spec = importlib.util.spec_from_file_location(_MODULE, self.file)
        if spec is None or spec.loader is None:
            raise ExportRefused(f"--model-code {self.file} is no Python file; give one that ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module  # dataclasses and pickles of the file look there for it
        sys.path.insert(0, str(self.file.resolve().parent))  # it may import its neighbours
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # or sys.exit(0) would end the export as if it were done
            raise ExportRefused(f"--model-code {self.file} fails: {_told(error)}") from error
        finally:
            sys.path.pop(0)
        classes = {
            name: value
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, keras.Layer)
        }
        own = {
            name: value for name, value in classes.items() if not value.__module__.startswith(("keras.", "tensorflow."))
        }
        functions = {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == _MODULE
        }
        return Opened(self, vars(module), {**functions, **own})


@dataclass(frozen=True, slots=True)
class Opened:
    """The file's names after it ran, and those of its own classes and functions, which a saved model may refer to."""

    code: ModelCode
    names: dict[str, Any]
    custom: dict[str, Any]

    def model(self) -> keras.Model:
        """The model that the code builds, with weights of any values; raises ExportRefused."""
        wanted = (self.code.function,) if self.code.function else _DEFAULTS
        found = next((self.names[name] for name in wanted if name in self.names), None)
        if found is None:
            there = ", ".join(name for name, value in self.custom.items() if _may_build(value))
            raise ExportRefused(
                f"--model-code {self.code.file} has no {' and no '.join(map(str, wanted))}; name the function that returns the model as FILE.py:FUNCTION"
                f"{f' (it defines {there})' if there else ''}"
            )
        what = f"class {found.__name__}" if inspect.isclass(found) else "function"
        if not isinstance(found, keras.Model) and callable(found):
            try:
                found = found()
            except (Exception, SystemExit) as error:
                raise ExportRefused(
                    f"--model-code {self.code.file}: the {what} fails when called without arguments: {_told(error)}"
                ) from error
        if not isinstance(found, keras.Model):
            raise ExportRefused(
                f"--model-code {self.code.file} gives a {type(found).__name__}; it must give a keras.Model (of Keras 3)"
            )
        if not found.built and what != "function":
            raise ExportRefused(
                f"--model-code {self.code.file}: a {type(found).__name__} has no weights before its first call; give a function that makes "
                f"it and calls it once, as in model = {type(found).__name__}(); model(numpy.zeros((1, T, H, W, C))); return model"
            )
        if not found.built:
            raise ExportRefused(
                f"--model-code {self.code.file} gives a model that was not built; start it with keras.Input, or call it on a batch before returning it"
            )
        return found


def _may_build(value: Any) -> bool:
    return inspect.isfunction(value) or issubclass(value, keras.Model)


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (sys.exit({'' if error.code is None else repr(error.code)})); take that out"
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"
