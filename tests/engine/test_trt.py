"""The TensorRT engine on a stand-in GPU: right numbers in every order of events, nothing left behind.

See tests/standin/README.md for what is real here, and what this cannot show.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.base import Overlapping, Place
from service.engine.buckets import BUCKETS
from service.engine.fp16 import to_fp16
from service.engine.golden import probabilities, prove, warm
from service.engine.select import open_engine
from service.engine.trt import TensorRtEngine
from service.errors import DeviceLost, EngineError

# The full TensorRT and TensorRT-RTX; and the three orders in which a GPU may do what it need not do in order.
RTX, FULL = pytest.mark.standin, pytest.mark.standin(flavour="tensorrt", STANDIN_ORDER="racing")
EVERYWHERE = pytest.mark.parametrize(
    "everywhere",
    [
        pytest.param("rtx", marks=RTX),
        pytest.param("full-racing", marks=FULL),
        pytest.param("rtx-eager", marks=pytest.mark.standin(STANDIN_ORDER="eager")),
    ],
)
MEANS = "features"


def open_color(bundle: Bundle, cache: Path, **options: object) -> TensorRtEngine:
    return TensorRtEngine(bundle, precision="fp32", place=Place(1, engine_cache=cache), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines are built once for all tests that do not look at the building."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def count() -> Callable[..., tuple[int, ...]]:
    """Counters of the stand-in driver by name."""
    library = ctypes.CDLL("libcuda.so.1")
    library.standin_count.restype = ctypes.c_long
    return lambda *names: tuple(int(library.standin_count(name.encode())) for name in names)


HELD = ("device_bytes", "pinned_bytes", "streams", "events", "graphs", "execs")
NOTHING = (0,) * len(HELD)


def frames_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 16, 16, 3), np.uint8)


def means(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float64).mean(axis=(1, 2)) / 255


@EVERYWHERE
def test_clips_of_any_batch_and_length_get_what_numpy_computes(
    color_bundle: Bundle, cache: Path, everywhere: str
) -> None:
    with closing(open_color(color_bundle, cache)) as engine:
        for batch, length in ((1, 1), (2, 7), (64, 1), (3, 4), (17, 8), (1, 8), (65, 2)):
            frames = frames_of(batch, batch, length)
            logits = frames.astype(np.float64).mean(axis=(1, 2, 3)) / 255 * 8
            expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            assert probabilities(engine, frames) == pytest.approx(expected, abs=1e-5), (batch, length)


@EVERYWHERE
def test_every_number_of_rows_comes_back_whole_and_in_order(color_bundle: Bundle, cache: Path, everywhere: str) -> None:
    with closing(open_color(color_bundle, cache)) as engine:
        assert prove(engine, color_bundle) <= 1e-4
        warm(engine, color_bundle, buckets=BUCKETS)
        kept = []
        for rows in (*range(1, 20), 31, 33, 63, 64, 65, 97, 130, 200):
            frames = frames_of(rows, rows)
            kept.append((engine.run("encoder", frames)[MEANS], means(frames)))
        for found, expected in kept:  # only now: a later run must not have changed what was handed out
            assert found == pytest.approx(expected, abs=1e-6), len(found)


@EVERYWHERE
def test_two_batches_are_under_way_at_a_time_and_a_third_is_refused(
    color_bundle: Bundle, cache: Path, everywhere: str
) -> None:
    with closing(open_color(color_bundle, cache)) as engine:
        assert isinstance(engine, Overlapping)
        first, second, third = frames_of(1, 8), frames_of(2, 3), frames_of(3, 8)
        one = engine.begin("encoder", [first[:5], first[5:]], bucket=8)
        two = engine.begin("encoder", [second], bucket=4)
        with pytest.raises(EngineError, match="2 batches are under way, which is the limit; finish one first"):
            engine.begin("encoder", [third], bucket=8)
        assert one()[MEANS] == pytest.approx(means(first), abs=1e-6)
        three = engine.begin("encoder", [third], bucket=8)
        assert two()[MEANS] == pytest.approx(means(second), abs=1e-6), (
            "padding is cut off, and nobody's rows are mixed up"
        )
        assert three()[MEANS] == pytest.approx(means(third), abs=1e-6)


@EVERYWHERE
def test_a_long_run_of_overlapping_batches_of_both_networks_mixes_nothing_up(
    color_bundle: Bundle, cache: Path, everywhere: str
) -> None:
    draw = np.random.default_rng(7)
    with closing(open_color(color_bundle, cache)) as engine:
        waiting: list[tuple[Callable[[], dict[str, np.ndarray]], str, np.ndarray]] = []

        def check() -> None:
            finish, name, expected = waiting.pop(0)
            assert finish()[name] == pytest.approx(expected, abs=1e-6)

        for number in range(200):
            if len(waiting) == 2:
                check()
            if draw.random() < 0.6:
                bucket = int(draw.choice(BUCKETS[:5]))
                frames = frames_of(number, int(draw.integers(1, bucket + 1)))
                waiting.append((engine.begin("encoder", [frames], bucket=bucket), MEANS, means(frames)))
            else:
                rows, length = int(draw.integers(1, 9)), int(draw.integers(1, 9))
                features = draw.random((rows, length, 3), np.float32)
                powers = np.exp(features.sum(axis=-1, dtype=np.float64))
                expected = powers / powers.sum(axis=-1, keepdims=True)
                waiting.append((engine.begin("head", [features], bucket=rows), "attention", expected))
        while waiting:
            check()


@RTX
def test_each_batch_size_of_the_encoder_is_a_cuda_graph(color_bundle: Bundle, cache: Path, count) -> None:
    frames = frames_of(0, 16)
    with closing(open_color(color_bundle, cache)) as engine:
        assert engine.cuda_graphs == 2 * len(BUCKETS), "one for each size and slot"
        before = count("launches")
        recorded = engine.run("encoder", frames)[MEANS]
        assert count("launches") == (before[0] + 1,)
    with closing(open_color(color_bundle, cache, graphs=False)) as engine:
        assert engine.cuda_graphs == 0
        before = count("launches")
        assert np.array_equal(engine.run("encoder", frames)[MEANS], recorded)
        assert count("launches") == before


@pytest.mark.standin(STANDIN_NO_CAPTURE="1")
def test_where_no_graph_can_be_recorded_kernels_are_launched_one_by_one_and_one_line_says_so(
    color_bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of(0, 40)
    with caplog.at_level(logging.INFO), closing(open_color(color_bundle, cache)) as engine:
        assert engine.cuda_graphs == 0
        assert engine.run("encoder", frames)[MEANS] == pytest.approx(means(frames), abs=1e-6)
    said = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert len(said) == 1
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in said[0]


@EVERYWHERE
def test_opening_and_closing_fifty_times_leaves_nothing_behind(
    color_bundle: Bundle, cache: Path, count, everywhere: str
) -> None:
    frames = frames_of(0, 3)
    open_color(color_bundle, cache).close()
    gc.collect()
    for _ in range(50):
        engine = open_color(color_bundle, cache)
        engine.run("encoder", frames)
        engine.close()
        assert count(*HELD) == NOTHING, "before any garbage is collected"
    assert count("contexts", "leaked_objects") == (1, 0)


@EVERYWHERE
def test_an_engine_that_is_closed_with_work_under_way_ends_in_order(
    color_bundle: Bundle, cache: Path, count, everywhere: str
) -> None:
    engine = open_color(color_bundle, cache)
    engine.begin("encoder", [frames_of(0, 8)], bucket=8)
    engine.begin("head", [np.zeros((2, 4, 3), np.float32)], bucket=2)
    engine.close()
    engine.close()
    assert count(*HELD) == NOTHING


@RTX
def test_another_thread_than_the_one_that_opened_it_is_refused(color_bundle: Bundle, cache: Path) -> None:
    frames, refused = frames_of(0, 2), []
    with closing(open_color(color_bundle, cache)) as engine:

        def call() -> None:
            with pytest.raises(EngineError, match=r"called on another thread .*; use the device thread"):
                engine.run("encoder", frames)
            refused.append(True)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert refused
        assert engine.run("encoder", frames)[MEANS] == pytest.approx(means(frames), abs=1e-6)


@RTX
def test_rows_that_the_engine_does_not_take_are_refused_and_the_next_ones_run(
    color_bundle: Bundle, cache: Path
) -> None:
    frames = frames_of(0, 2)
    with closing(open_color(color_bundle, cache)) as engine:
        for rows in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 16, 16, 1), np.uint8)):
            with pytest.raises(EngineError, match=r"takes no rows \[2, "):
                engine.run("encoder", rows)
        with pytest.raises(EngineError, match=r"takes no rows \[1, 9, 3\], at most \[64, 8, 3\]"):
            engine.run("head", np.zeros((1, 9, 3), np.float32))
        for _ in range(3):
            assert engine.run("encoder", frames)[MEANS] == pytest.approx(means(frames), abs=1e-6)


@pytest.mark.standin(flavour="tensorrt", STANDIN_NAME="Faulty GPU", STANDIN_FAULT=10**9)
def test_a_gpu_that_fails_is_lost_for_good_and_said_to_be(
    color_bundle: Bundle, cache: Path, count, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(0, 4)
    engine = open_color(color_bundle, cache)
    monkeypatch.setenv("STANDIN_FAULT", str(count("calls")[0] + 1))
    with pytest.raises(
        DeviceLost, match=r"GPU 0 \(Faulty GPU\) has failed .*illegal memory access.*restart the service"
    ):
        engine.run("encoder", frames)
    with pytest.raises(DeviceLost):
        engine.run("encoder", frames)
    with pytest.raises(DeviceLost):
        open_engine(color_bundle, name="auto", place=Place(1, engine_cache=cache))


@pytest.mark.standin(flavour="tensorrt", STANDIN_ORDER="racing")
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_shipped_bundle_gives_what_onnxruntime_gives_of_the_very_graphs(precision: str, tmp_path: Path) -> None:
    from standin_trt.engine import session_of  # noqa: PLC0415  # it is there in that process alone

    bundle = open_bundle(next(path for path in find_bundles(()) if path.name == "fight"))
    golden = bundle.golden().frames[:1]
    encoder, head = (
        session_of(to_fp16(bundle.file(role).read_bytes()))
        for role in ("encoder.int8" if precision == "int8" else "encoder", "head")
    )
    rows = golden[0]
    features = encoder.run(["features"], {"frames": rows})[0]
    expected = head.run(["probabilities"], {"features": features[None]})[0]
    with closing(TensorRtEngine(bundle, precision=precision, place=Place(1, engine_cache=tmp_path))) as engine:
        assert engine.info.float_precision == "fp16"
        assert probabilities(engine, golden) == pytest.approx(expected, abs=2e-3)
