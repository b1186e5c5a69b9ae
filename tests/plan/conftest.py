"""Figures made by hand, round enough to compute with in one's head."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.bench.machine import this_machine
from service.plan.figures import Figures, Footage, Measured, Networks, Rows, Served, Unit


def ms(milliseconds: float) -> Measured:
    return Measured.of([milliseconds / 1000])


def make_figures(*, unit: Unit = "core", kind: str = "encoder", live: bool = True) -> Figures:
    """A frame of 100,000 pixels takes 1 ms to decode and 2 ms more to look at (live 2 and 1), of twice the pixels twice that.

    The encoder takes 4 ms for one frame and 8 ms for four, the head 3 ms for one clip and 16 ms for sixteen; clips have 8 frames.
    """

    def footage(pixels: int) -> Footage:
        times = pixels / 100_000
        return Footage(
            codec="h264",
            container="MPEG-TS",
            width=pixels // 100,
            height=100,
            fps=10,
            clips=1,
            seconds=10,
            bytes_per_s=12_500 * times,
            frame=ms(times),
            kept=ms(2 * times),
            preprocess_share=0.5,
            live_frame=ms(2 * times) if live else None,
            live_kept=ms(times) if live else None,
        )

    return Figures(
        date="2026-01-01T00:00:00+00:00",
        command="marey plan measure",
        machine=this_machine(),
        bundle="color 1.0.0",
        footage=(footage(100_000), footage(200_000)),
        networks=Networks(
            engine="tensorrt" if unit == "gpu" else "openvino",
            precision="int8",
            float_precision="fp16",
            device="by hand",
            unit=unit,
            threads=1,
            kind=kind,  # type: ignore[arg-type]
            frames=8,
            frame_bytes=1000,
            entry=(Rows(rows=1, seconds=ms(4)), Rows(rows=4, seconds=ms(8))),
            head=(Rows(rows=1, seconds=ms(3)), Rows(rows=16, seconds=ms(16))) if kind == "encoder" else (),
        ),
        served=Served(
            concurrency=8,
            request=ms(5),
            device=ms(19),
            workers=ms(100),
            answer=ms(1) if live else None,
            process_bytes=2**30,
            worker_bytes=2**28,
            stream_bytes=2**29 if live else None,
            per_s=Measured.of([8.0]),
            cores=1,
            predicted_per_s=8,
        ),
    )


@pytest.fixture(scope="session")
def figures() -> Figures:
    return make_figures()


@pytest.fixture(scope="session")
def figured() -> Callable[..., Figures]:
    return make_figures
