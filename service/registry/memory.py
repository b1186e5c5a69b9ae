"""What an open model costs, measured, and who gives way when all of them cost too much.

# Note [What a model costs]
The growth of this process's own memory (RssAnon) while the model is opened and warmed, one model at a time; on a GPU what is
taken of its memory is added. The size of the files says nothing: an engine holds the activations of its largest batch, which
were 72 MB for a network of 0.3 MB and 62 MB for one of 6 MB. What requests take meanwhile, and libraries that are loaded for the
first time, make a measurement too large, and hardly anything makes it too small; so the smallest of those made for one version
counts, and at least its files. Of the libraries' share see also Note [Opened twice] in opening.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path

from service.bundle.manifest import Manifest, Precision
from service.engine.cuda import Device
from service.errors import EngineError
from service.registry.model import Model

_STATUS = Path("/proc/self/status")


def taken(gpu: int | None) -> int | None:
    """What this process holds for itself, less what is free on `gpu`; only differences mean something. None: it cannot be told."""
    if not _STATUS.is_file():
        return None
    trim()
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024 - (0 if gpu is None else _free(gpu))


def trim() -> None:
    """Give freed memory back to the system: what malloc keeps of a model that was closed helps nobody else."""
    try:
        give_back = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # not glibc
        return
    give_back(0)


def files(manifest: Manifest) -> int:
    """Bytes of the smallest set of networks that can run: a model never costs less."""
    precision: Precision = "int8" if manifest.quantized else "fp32"
    return sum(manifest.artifacts[manifest.role(stage, precision)].bytes for stage in manifest.network.stages)


def givers(models: Iterable[Model], *, over: int) -> list[Model]:
    """Those that give way so that `over` bytes or more are free, the least recently used first; never one that is in use.

    Where all of them together are not enough, all of them.
    """
    idle = [model for model in models if model.held is not None and not model.held.leases and not model.waiting]
    chosen: list[Model] = []
    for model in sorted(idle, key=lambda each: each.rank):
        if over <= 0:
            break
        assert model.held is not None
        over -= model.held.nbytes
        chosen.append(model)
    return chosen


def _free(gpu: int) -> int:
    try:
        device = Device.open(gpu)
        with device.current():
            return device.free_bytes()
    except EngineError:  # there is none, or it fails: whoever opens the model there says so
        return 0
