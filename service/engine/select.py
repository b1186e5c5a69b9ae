"""Choose the engine: a named one or an error, or under `auto` the first that proves itself, with why not the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
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
    """How an engine is opened, and the precisions that it runs, in the order in which `auto` tries them.

    `bound`: to the thread that opened it, which must be the device thread. The others may be opened, warmed and closed on any
    thread, while the device thread serves other models; two threads never use one engine at the same time.
    """

    open: _Opener
    precisions: tuple[Precision, ...]
    bound: bool = False


# In the order in which `auto` tries them: the bound ones first.
ENGINES: dict[str, Kind] = {
    "tensorrt": Kind(TensorRtEngine, ("int8", "fp16", "fp32"), bound=True),
    "openvino": Kind(OpenVinoEngine, ("int8", "fp32")),
    "onnxruntime": Kind(OnnxRuntimeEngine, ("fp32",)),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine that reproduced the golden clips (`golden_difference`: largest |Δp|), and why the ones before it did not."""

    engine: Engine
    golden_difference: float
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why each engine that was tried does not run the bundle. `lacking`: one of them for want of a package or device."""

    reasons: tuple[str, ...] = ()
    lacking: bool = False

    def error(self, bundle: Bundle) -> EngineError:
        if self.lacking and len(self.reasons) == 1:
            return EngineUnavailable(f"no engine runs bundle {bundle.manifest.name}: {self.reasons[0]}")
        return EngineError(f"no engine runs bundle {bundle.manifest.name}: " + "; ".join(self.reasons))


def engines_of(name: str) -> tuple[str, ...]:
    """Those that `name` means, in the order in which they are tried; raises EngineError."""
    if name != "auto" and name not in ENGINES:
        raise EngineError(f"there is no engine {name!r} in this version; choose auto, {', '.join(ENGINES)}")
    return tuple(ENGINES) if name == "auto" else (name,)


def open_engine(bundle: Bundle, *, name: str = "auto", precision: Choice = "auto", place: Place) -> Opened:
    """Open and prove an engine for `bundle`. Call it on the device thread. Raises EngineError with every reason."""
    found = try_engines(bundle, engines_of(name), precision=precision, place=place)
    if isinstance(found, Refused):
        raise found.error(bundle)
    return found


def try_engines(
    bundle: Bundle, names: Iterable[str], *, precision: Choice, place: Place, before: Refused | None = None
) -> Opened | Refused:
    """The first of `names` that opens and proves itself, or why none does, after what was refused `before`.

    Raises BuildCancelled or DeviceLost: then nothing else is tried.
    """
    refused = list(before.reasons) if before else []
    lacking = before is not None and before.lacking
    for engine_name in names:
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
            calibration = bundle.manifest.calibration
            if wanted == "int8" and calibration is not None and calibration.forced is not None:
                logger.warning(
                    "bundle %s runs in INT8 that was kept by --force: %s", bundle.manifest.name, calibration.forced
                )
            return Opened(engine, difference, tuple(refused))
    return Refused(tuple(refused), lacking)


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
