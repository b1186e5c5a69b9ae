#!/opt/marey/bin/python
"""Build the TensorRT engine of every bundle that would be served, by the very code that `marey serve` runs, and prove it.

    marey-engines

Which bundles, precision, GPUs and cache: by the MAREY_ variables. An engine that fits is loaded and not built again. Exit code
1 where not one bundle has an engine; the service names those that have none, and serves the others.
"""

from __future__ import annotations

import logging
import sys
import time

from pydantic import ValidationError

from service.bundle.store import find_bundles, open_bundle
from service.engine.base import Place
from service.engine.select import open_engine
from service.errors import DeviceLost, MareyError
from service.settings import Settings

# A build tells of hundreds of steps; whoever watches the log wants to see that it is not stuck.
_SECONDS_BETWEEN_LINES = 20.0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class _Progress:
    def __init__(self, subject: str) -> None:
        self._subject, self._told = subject, time.monotonic()

    def __call__(self, phase: str, part: float) -> None:
        if (now := time.monotonic()) - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            _say(f"{self._subject}: {phase}, {part:.0%}")


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        sys.stderr.write(f"error: MAREY_{str(fault['loc'][0]).upper()} = {fault.get('input')!r}: {fault['msg']}\n")
        return 2
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    built = 0
    for path in find_bundles(settings.bundles):
        try:
            bundle = open_bundle(path)
            for device in settings.devices or (0,):
                began = time.monotonic()
                place = Place(
                    threads=settings.threads,
                    device=device,
                    engine_cache=settings.engine_cache,
                    must_keep=True,
                    progress=_Progress(f"{bundle.manifest.name} on GPU {device}"),
                )
                opened = open_engine(bundle, name="tensorrt", precision=settings.precision, place=place)
                info = opened.engine.info
                opened.engine.close()
                _say(
                    f"{bundle.manifest.name} {bundle.manifest.version}: {info.precision} on {info.device}, ready in "
                    f"{time.monotonic() - began:.1f} s, golden clips within {opened.golden_difference:.2g}"
                )
        except DeviceLost as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        except MareyError as error:
            sys.stderr.write(f"error: {path.name} gets no engine: {error}\n")
        else:
            built += 1
    return 0 if built else 1


if __name__ == "__main__":
    sys.exit(main())
