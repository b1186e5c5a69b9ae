"""Which TensorRT this machine has: the full library or TensorRT-RTX. Two packages, one API."""

from __future__ import annotations

import importlib
import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from service.errors import EngineUnavailable

logger = logging.getLogger(__name__)

Name = Literal["tensorrt", "tensorrt_rtx"]
# The full library first: it tunes for the very GPU, and takes GPUs that TensorRT-RTX does not know.
PACKAGES: dict[Name, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# Before it, the behaviour of strongly typed networks and of shared profiles differs.
_OLDEST = (10, 13)


@dataclass(frozen=True, slots=True)
class Flavour:
    """An imported TensorRT: `trt` is its module, `version` the full one of the package."""

    name: Name
    title: str
    version: str
    trt: Any

    @property
    def rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{self.title} {self.version}"


def load_flavour() -> Flavour:
    """Import the first TensorRT that there is; raises EngineUnavailable with why each is not."""
    refused = []
    for name, title in PACKAGES.items():
        try:
            trt = importlib.import_module(name)
        except ModuleNotFoundError as error:
            refused.append(f"{title} is not installed" if error.name == name else f"{title} lacks {error.name}")
        except (ImportError, OSError, RuntimeError) as error:  # a placeholder, or a library that it needs is not there
            refused.append(f"{title} does not import ({_first_line(error)})")
        else:
            version = str(getattr(trt, "__version__", "0"))
            if name == "tensorrt" and _numbers(version) < _OLDEST:
                refused.append(f"{title} {version} is older than {'.'.join(map(str, _OLDEST))}")
                continue
            return Flavour(name, title, version, trt)
    raise EngineUnavailable(
        f"{', '.join(refused)}; run make gpu in a checkout, or pip install tensorrt or tensorrt-rtx"
    )


class Log:
    """TensorRT's log in ours. It tells the reason of a failure nowhere else: `reason` is what it last complained of."""

    def __init__(self, flavour: Flavour) -> None:
        base: Any = flavour.trt.ILogger
        levels = {
            base.INTERNAL_ERROR: logging.ERROR,
            base.ERROR: logging.ERROR,
            base.WARNING: logging.WARNING,
            base.INFO: logging.DEBUG,  # a line for every step of a build
        }
        target = logging.getLogger(f"{__name__}.{flavour.name}")
        complaints: list[str] = []
        said: set[str] = set()

        class Sink(base):  # type: ignore[misc]  # a class of the module that was imported just now
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: object, message: str) -> None:
                level = levels.get(severity)
                if level is None:
                    return
                if level == logging.ERROR:
                    complaints.append(message)
                    level = logging.DEBUG  # whoever called raises it as EngineError
                elif message in said:
                    level = logging.DEBUG  # the same for every layer
                said.add(message)
                target.log(level, "%s", message)

        self.sink = Sink()
        self._complaints = complaints

    def reason(self) -> str:
        """What TensorRT complained of since the last call, as one sentence."""
        said = "; ".join(dict.fromkeys(_first_line(text) for text in self._complaints))
        self._complaints.clear()
        return said or "TensorRT gave no reason"


@cache
def log_of(name: Name) -> Log:
    """The one log of the process: TensorRT keeps the first that it is given, and warns of every other."""
    flavour = load_flavour()
    assert flavour.name == name
    return Log(flavour)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
