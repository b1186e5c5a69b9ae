"""Choose the engine: a named one or an error, or under `auto` the first that proves itself, with why not the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import TITLES, Choice, Engine, Place
from service.engine.golden import prove
from service.engine.ort import OnnxRuntimeEngine
from service.engine.ov import OpenVinoEngine
from service.engine.trt import TensorRtEngine
from service.errors import BuildCancelled, DeviceLost, EngineError, EngineUnavailable

logger = logging.getLogger(__name__)


class _Opener(Protocol):
    def __call__(self, bundle: Bundle, *, precision: Precision, place: Place) -> Engine: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """How an engine is opened, and the precisions that it runs, in the order in which `auto` tries them."""

    open: _Opener
    precisions: tuple[Precision, ...]


# In the order in which `auto` tries them.
ENGINES: dict[str, Kind] = {
    "tensorrt": Kind(TensorRtEngine, ("int8", "fp16", "fp32")),
    "openvino": Kind(OpenVinoEngine, ("int8", "fp32")),
    "onnxruntime": Kind(OnnxRuntimeEngine, ("fp32",)),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine that reproduced the golden clips (`golden_difference`: largest |Δp|), and why the ones before it did not."""

    engine: Engine
    golden_difference: float
    refused: tuple[str, ...]


def open_engine(bundle: Bundle, *, name: str = "auto", precision: Choice = "auto", place: Place) -> Opened:
    """Open and prove an engine for `bundle`. Call it on the device thread. Raises EngineError with every reason."""
    if name != "auto" and name not in ENGINES:
        raise EngineError(f"there is no engine {name!r} in this version; choose auto, {', '.join(ENGINES)}")
    refused: list[str] = []
    lacking = False
    for engine_name in ENGINES if name == "auto" else (name,):
        for wanted in _precisions(bundle, ENGINES[engine_name], precision):
            attempt = f"{engine_name} {wanted}"
            try:
                engine, difference = _proved(ENGINES[engine_name].open, bundle, wanted, place)
            except (BuildCancelled, DeviceLost):
                raise
            except EngineUnavailable as error:
                refused.append(f"{engine_name}: {error}")
                lacking = True
                break  # it lacks the same for every precision
            except EngineError as error:
                refused.append(f"{attempt}: {error}")
                logger.warning("bundle %s does not run on %s", bundle.manifest.name, refused[-1])
                continue
            for reason in refused:
                logger.info("bundle %s runs on %s; not on %s", bundle.manifest.name, attempt, reason)
            return Opened(engine, difference, tuple(refused))
    if lacking and len(refused) == 1:
        raise EngineUnavailable(f"no engine runs bundle {bundle.manifest.name}: {refused[0]}")
    raise EngineError(f"no engine runs bundle {bundle.manifest.name}: " + "; ".join(refused))


def _precisions(bundle: Bundle, kind: Kind, choice: Choice) -> tuple[Precision, ...]:
    """One that was named is tried wherever it was asked for: the engine itself says why it cannot."""
    if choice != "auto":
        return (choice,)
    return tuple(each for each in kind.precisions if each != "int8" or bundle.manifest.quantized)


def _proved(opener: _Opener, bundle: Bundle, precision: Precision, place: Place) -> tuple[Engine, float]:
    if precision == "int8" and not bundle.manifest.quantized:
        raise EngineError(
            f"bundle {bundle.manifest.name} holds no INT8 {TITLES[bundle.manifest.network.stages[0]]}; make it with marey-build quantize"
        )
    engine = opener(bundle, precision=precision, place=place)
    try:
        return engine, prove(engine, bundle)
    except BaseException:
        engine.close()
        raise
