"""Choose the engine: a named one or an error, or under `auto` the first that proves itself, with why not the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Choice, Engine
from service.engine.golden import prove
from service.engine.ort import OnnxRuntimeEngine
from service.engine.ov import OpenVinoEngine
from service.errors import EngineError

logger = logging.getLogger(__name__)


class _Opener(Protocol):
    def __call__(self, bundle: Bundle, *, precision: Precision, threads: int) -> Engine: ...


# In the order in which `auto` tries them.
ENGINES: dict[str, _Opener] = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine that reproduced the golden clips (`golden_difference`: largest |Δp|), and why the ones before it did not."""

    engine: Engine
    golden_difference: float
    refused: tuple[str, ...]


def open_engine(bundle: Bundle, *, name: str = "auto", precision: Choice = "auto", threads: int) -> Opened:
    """Open and prove an engine for `bundle`. Call it on the device thread. Raises EngineError with every reason."""
    if name != "auto" and name not in ENGINES:
        raise EngineError(f"there is no engine {name!r} in this version; choose auto, {', '.join(ENGINES)}")
    refused: list[str] = []
    for engine_name in ENGINES if name == "auto" else (name,):
        for wanted in _precisions(bundle, precision):
            attempt = f"{engine_name} {wanted}"
            try:
                engine, difference = _proved(ENGINES[engine_name], bundle, wanted, threads)
            except EngineError as error:
                refused.append(f"{attempt}: {error}")
                continue
            for reason in refused:
                logger.warning("bundle %s runs on %s; refused: %s", bundle.manifest.name, attempt, reason)
            return Opened(engine, difference, tuple(refused))
    raise EngineError(f"no engine runs bundle {bundle.manifest.name}: " + "; ".join(refused))


def _precisions(bundle: Bundle, choice: Choice) -> tuple[Precision, ...]:
    if choice != "auto":
        return (choice,)
    return ("int8", "fp32") if "encoder.int8" in bundle.manifest.artifacts else ("fp32",)


def _proved(opener: Callable[..., Engine], bundle: Bundle, precision: Precision, threads: int) -> tuple[Engine, float]:
    if precision == "int8" and "encoder.int8" not in bundle.manifest.artifacts:
        raise EngineError(f"bundle {bundle.manifest.name} holds no INT8 encoder; make it with marey-build quantize")
    engine = opener(bundle, precision=precision, threads=threads)
    try:
        return engine, prove(engine, bundle)
    except EngineError:
        engine.close()
        raise
