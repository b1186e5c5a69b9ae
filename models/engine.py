"""TensorRT engines ahead of serving: built by the very code that `marey serve` would build them with, and proved."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel
from tqdm import tqdm

from models.judging.judge import THREADS
from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.cache import EngineCache
from service.engine.select import open_engine


class Built(BaseModel):
    """An engine that reproduces the golden clips. `seconds`: to build, or to load what was cached, and to prove it."""

    bundle: str
    precision: Precision
    float_precision: str
    device: str
    seconds: float
    golden_difference: float
    cache: str

    @property
    def sentence(self) -> str:
        return (
            f"{self.bundle} {self.precision} (float part {self.float_precision}) on {self.device}: ready in {self.seconds:.1f} s, "
            f"golden clips within {self.golden_difference:.2g}; kept in {self.cache}"
        )


def build_engines(
    bundle: Bundle, *, precisions: tuple[Precision, ...] = (), device: int = 0, cache: Path | None = None
) -> list[Built]:
    """One engine a precision. Raises EngineUnavailable where there is no TensorRT or no GPU, EngineError where one fails."""
    best: Precision = "int8" if bundle.manifest.quantized else "fp16"
    built = []
    for precision in precisions or (best,):
        began = time.monotonic()
        with tqdm(
            desc=f"{bundle.manifest.name} {precision}", total=1.0, bar_format="{desc}: {bar} {elapsed}", disable=None
        ) as bar:

            def progress(phase: str, part: float, bar: tqdm = bar) -> None:
                bar.set_description_str(phase[:40], refresh=False)
                bar.update(part - bar.n)

            place = Place(threads=THREADS, device=device, engine_cache=cache, must_keep=True, progress=progress)
            opened = open_engine(bundle, name="tensorrt", precision=precision, place=place)
        with closing(opened.engine) as engine:
            built.append(
                Built(
                    bundle=bundle.manifest.name,
                    precision=precision,
                    float_precision=engine.info.float_precision,
                    device=engine.info.device,
                    seconds=round(time.monotonic() - began, 1),
                    golden_difference=opened.golden_difference,
                    cache=str(EngineCache(cache).root),
                )
            )
    return built
