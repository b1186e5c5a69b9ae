"""`python -m tests.gpu.identity`: which GPU and which TensorRT, as one line of JSON; a process of its own, for drivers crash."""

from __future__ import annotations

import json
from contextlib import suppress

from service.engine.cuda import Device, load_driver
from service.engine.flavour import load_flavour
from service.errors import EngineUnavailable


def identity() -> dict[str, str | None]:
    """What is found out stands; `lacking` says why the rest is not."""
    found: dict[str, str | None] = dict.fromkeys(("gpu", "compute_capability", "cuda", "flavour", "version", "lacking"))
    try:
        flavour = load_flavour()
        found |= {"flavour": flavour.title, "version": flavour.version}
        device = Device.open(0)
        found |= {"gpu": device.name, "compute_capability": device.compute_capability}
        version = load_driver().get_driver_version()
        found["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    except EngineUnavailable as error:
        found["lacking"] = str(error)
    return found


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        print(json.dumps(identity()))  # noqa: T201  # it is a command
