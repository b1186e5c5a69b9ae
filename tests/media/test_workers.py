"""The pool against real processes that really crash, hang and eat memory."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.bundle.manifest import Input, Sampling
from service.errors import (
    DecodeFailed,
    DecodeLimit,
    Draining,
    NotReady,
    RequestError,
    TooLong,
    TooManyPixels,
    UnsupportedMedia,
)
from service.media.frames import Windows
from service.media.image import decode_image
from service.media.limits import Limits
from service.media.workers import DecodePool
from tests.media.conftest import Hostile

Encode = Callable[..., bytes]
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    async with DecodePool(size=1, timeout_s=20) as pool:
        await pool.warm()
        yield pool


@pytest.fixture
def picture(encode: Encode, patches: np.ndarray) -> bytes:
    return encode(patches, "JPEG")


async def works(pool: DecodePool, picture: bytes, spec: Input) -> bool:
    decoded = await pool.image(picture, spec=spec)
    return decoded.clip.frames.shape == (1, spec.height, spec.width, 3)


async def until(condition: Callable[[], bool]) -> None:
    """Processes send no events to those who only watch them."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_what_a_worker_decodes_is_what_decoding_here_gives(pool: DecodePool, picture: bytes, spec: Input) -> None:
    there = (await pool.image(picture, spec=spec)).clip
    here = decode_image(picture, spec=spec, limits=Limits()).clip
    assert (there.frames == here.frames).all()
    assert there.frames.flags.writeable
    assert there.source == here.source


async def test_errors_of_the_tree_pass_through_unchanged(pool: DecodePool, picture: bytes, spec: Input) -> None:
    with pytest.raises(UnsupportedMedia, match="text, not an image") as caught:
        await pool.image(b"plain words", spec=spec)
    assert type(caught.value) is UnsupportedMedia
    assert caught.value.detail == str(caught.value)
    assert await works(pool, picture, spec)


async def test_limits_reach_the_workers(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, limits=Limits(max_pixels=100)) as pool:
        with pytest.raises(TooManyPixels, match="at most 100"):
            await pool.image(picture, spec=spec)


@pytest.mark.parametrize(
    ("crash", "argument", "named"),
    [(signal.raise_signal, signal.SIGSEGV, "SIGSEGV"), (os._exit, 3, "exit status 3"), (os.abort, None, "SIGABRT")],
)
async def test_a_crash_costs_one_request(
    crash: Callable[..., None], argument: int | None, named: str, pool: DecodePool, picture: bytes, spec: Input
) -> None:
    arguments = () if argument is None else (argument,)
    with pytest.raises(DecodeFailed, match=named) as caught:
        await pool.submit(crash, *arguments)
    assert type(caught.value) is DecodeFailed
    assert await works(pool, picture, spec)
    assert pool.alive


async def test_a_crash_does_not_touch_the_requests_beside_it_and_behind_it(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        results = await asyncio.gather(
            *(works(pool, picture, spec) for _ in range(10)),
            pool.submit(os._exit, 1),
            *(works(pool, picture, spec) for _ in range(20)),
            return_exceptions=True,
        )
    assert [type(result) for result in results].count(DecodeFailed) == 1
    assert results.count(True) == 30


async def test_a_hang_costs_one_request_and_its_worker(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, timeout_s=0.5) as pool:
        await pool.warm()
        with pytest.raises(DecodeLimit, match=r"longer than 0.5 s"):
            await pool.submit(time.sleep, 60)
        assert await works(pool, picture, spec)


async def test_processor_time_is_limited_per_call_even_where_the_clock_is_not(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    with pytest.raises(DecodeLimit, match="processor time"):
        await pool.submit(signal.raise_signal, signal.SIGXCPU)
    limits = "__import__('resource').getrlimit(__import__('resource').RLIMIT_CPU)[0]"
    assert 20 < await pool.submit(eval, limits) < 30
    assert await works(pool, picture, spec)


async def test_memory_is_limited(pool: DecodePool, picture: bytes, spec: Input) -> None:
    with pytest.raises(DecodeLimit, match="memory"):
        await pool.submit(bytearray, 5 << 30)
    assert await works(pool, picture, spec)


async def test_an_error_that_nobody_foresaw_is_a_failed_decode_and_logged(
    pool: DecodePool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DecodeFailed, match="ZeroDivisionError"):
        await pool.submit(eval, "1 / 0")
    assert "ZeroDivisionError" in caplog.text


async def test_cancelling_the_caller_ends_the_work(pool: DecodePool, picture: bytes, spec: Input) -> None:
    pid = await pool.submit(os.getpid)
    task = asyncio.create_task(pool.submit(time.sleep, 60))
    await until(lambda: pool._turns.running and not pool.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await works(pool, picture, spec)
    assert await pool.submit(os.getpid) != pid
    await until(lambda: not psutil.pid_exists(pid))


async def test_a_caller_that_hangs_up_leaves_its_worker_the_time_to_end(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, grace_s=20) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        task = asyncio.create_task(pool.submit(time.sleep, 0.2))
        await until(lambda: pool._turns.running and not pool.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The next call gets its own answer, not that of the one before, and from the same process.
        assert await pool.submit(os.getpid) == pid
        assert await works(pool, picture, spec)


async def test_a_caller_that_hangs_up_while_it_sends_costs_a_worker(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    pid = await pool.submit(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(pool.submit(len, bytes(8 << 20)))
    await until(lambda: any(not worker.told for worker in pool._workers))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await works(pool, picture, spec)
    assert await pool.submit(os.getpid) != pid


async def test_bulk_calls_leave_a_worker_to_the_others(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        bulk = [asyncio.create_task(pool._call("other", "bulk", time.sleep, 60)) for _ in range(3)]
        await until(lambda: pool.waiting == 2)
        assert await works(pool, picture, spec)
        assert pool._turns.running == 1
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)


async def test_the_time_to_an_answer_is_told_from_what_calls_took_of_late(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    assert pool.expected_wait_s("image", "interactive") == 0.0
    assert await works(pool, picture, spec)
    usual = pool.expected_wait_s("image", "interactive")
    assert 0.0 < usual < 5.0
    busy = asyncio.create_task(pool.submit(time.sleep, 0.5))
    await until(lambda: pool._turns.running and not pool.waiting)
    waiting = [asyncio.create_task(pool.image(picture, spec=spec)) for _ in range(2)]
    await until(lambda: pool.waiting == 2)
    assert pool.waiting_s("interactive") == pytest.approx(2 * usual)
    assert pool.expected_wait_s("image", "interactive") == pytest.approx(3 * usual)
    await asyncio.gather(busy, *waiting)
    assert pool.waiting_s("interactive") == pool.running_s("interactive") == 0.0


async def test_a_caller_that_gives_up_while_waiting_costs_nothing(
    pool: DecodePool, picture: bytes, spec: Input
) -> None:
    pid = await pool.submit(os.getpid)
    busy = asyncio.create_task(pool.submit(time.sleep, 0.3))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(pool.image(picture, spec=spec)) for _ in range(3)]
    await until(lambda: pool.waiting == 3)
    waiting[1].cancel()
    await busy
    assert (await waiting[0]).clip.frames.shape == (await waiting[2]).clip.frames.shape
    assert pool.waiting == 0
    assert await pool.submit(os.getpid) == pid


async def test_a_worker_killed_while_idle_is_replaced_unseen(pool: DecodePool, picture: bytes, spec: Input) -> None:
    pid = await pool.submit(os.getpid)
    psutil.Process(pid).kill()
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert await works(pool, picture, spec)


async def test_workers_are_replaced_after_so_many_calls_without_a_pause() -> None:
    async with DecodePool(size=1, calls_per_worker=5) as pool:
        await pool.warm()
        first = await pool.submit(os.getpid)
        pids = {first}
        deadline = time.monotonic() + 30
        while len(pids) < 3:
            pids.add(await pool.submit(os.getpid))
            assert time.monotonic() < deadline
        await until(lambda: not psutil.pid_exists(first))
        # Whoever is relieved while it has nothing to do leaves at once.
        while pool._boots:
            await asyncio.gather(*pool._boots)
        assert len(pool._workers) == len(pool._ready) == 1


async def test_the_pool_fails_those_who_wait_when_no_worker_comes_up_and_comes_back_by_itself(
    picture: bytes, spec: Input
) -> None:
    async with DecodePool(size=2, memory_bytes=1 << 70, pause_s=0.05) as pool:
        with pytest.raises(NotReady, match=r"fail to start, \d times in a row, and are tried again in \d+ s") as caught:
            await pool.submit(os.getpid)
        assert caught.value.retry_after_s
        assert not pool.alive
        with pytest.raises(NotReady):
            await pool.warm()
        pool.memory_bytes = 4 << 30  # what kept them from starting is mended
        await until(lambda: pool.alive and len(pool._ready) == 2)
        assert await works(pool, picture, spec)
        pool.check()


async def test_a_successor_that_fails_to_start_leaves_the_old_worker_at_its_place(picture: bytes, spec: Input) -> None:
    async with DecodePool(size=1, calls_per_worker=2, pause_s=60) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        pool.memory_bytes = 1 << 70
        for _ in range(6):
            assert await pool.submit(os.getpid) == pid
            while pool._boots:
                await asyncio.gather(*pool._boots)
        assert pool._failed_boots >= 3
        assert pool.alive
        assert await works(pool, picture, spec)


async def test_a_pool_that_is_not_started_or_closed_says_so(spec: Input) -> None:
    pool = DecodePool(size=1)
    assert not pool.alive
    with pytest.raises(NotReady, match="not started"):
        await pool.image(b"x", spec=spec)
    await pool.start()
    assert pool.alive
    running = asyncio.create_task(pool.submit(time.sleep, 60))
    await pool.warm()
    await until(lambda: pool._turns.running and not pool.waiting)
    await pool.close()
    with pytest.raises(Draining):
        await running
    with pytest.raises(Draining):
        await pool.image(b"x", spec=spec)
    assert not pool.alive


async def test_no_process_is_left_behind_when_the_pool_closes() -> None:
    async with DecodePool(size=2) as pool:
        await pool.warm()
        pids = [worker.process.pid for worker in pool._workers]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    gc.collect()


async def test_ctrl_c_and_sigterm_do_not_stop_a_worker_at_its_task(pool: DecodePool) -> None:
    pid = await pool.submit(os.getpid)
    task = asyncio.create_task(pool.submit(time.sleep, 0.3))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    await task
    assert await pool.submit(os.getpid) == pid
    assert os.getpgid(pid) != os.getpgid(0)


ORPHANS = """
import asyncio, os, time
from service.media.workers import DecodePool

async def main():
    pool = DecodePool(size=2)
    await pool.start()
    await pool.warm()
    busy = asyncio.ensure_future(pool.submit(time.sleep, 600))
    await asyncio.sleep(0.1)
    print(*(worker.process.pid for worker in pool._workers), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_workers_never_outlive_their_parent_busy_or_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_worker_holds_decoders_and_nothing_of_the_server(pool: DecodePool, picture: bytes, spec: Input) -> None:
    assert await works(pool, picture, spec)
    loaded = await pool.submit(eval, "sorted({name.split('.')[0] for name in __import__('sys').modules})")
    assert {"cv2", "PIL", "numpy"} <= set(loaded)
    assert not {"openvino", "onnxruntime", "fastapi", "uvicorn", "tensorflow", "pytest", "asyncio"} & set(loaded)


async def test_a_pool_that_closes_while_workers_start_leaves_nothing_of_them() -> None:
    pool = DecodePool(size=2)
    await pool.start()
    workers = set(pool._workers)
    await pool.close()
    assert all(worker.process.returncode is not None for worker in workers)
    assert all(worker.connection.fileno() == -1 for worker in workers)


def test_the_server_imports_no_decoder_to_run_the_pool() -> None:
    code = "import sys, service.media.workers; print('cv2' in sys.modules)"
    here = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert here.stdout.strip() == "False"


@pytest.mark.data
async def test_a_playlist_opens_nothing_even_past_the_sniffer(
    pool: DecodePool, hostile: dict[str, Hostile], tmp_path: Path
) -> None:
    target = hostile["h264.mp4"].path
    for name, text in (
        ("list.mp4", f"ffconcat version 1.0\nfile '{target}'\n"),
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        code = "__import__('cv2').VideoCapture(path, __import__('cv2').CAP_FFMPEG).isOpened()"
        assert await pool.submit(eval, code, {"path": str(tmp_path / name)}) is False
        assert await pool.submit(eval, code, {"path": str(target)}) is True


@pytest.mark.data
@pytest.mark.parametrize(
    "plan", [Sampling(), Windows(window_s=1.0, stride_s=0.5, frames=8)], ids=["uniform", "windows"]
)
async def test_the_whole_hostile_folder_costs_no_worker_and_no_memory(
    plan: Sampling | Windows, hostile: dict[str, Hostile], spec: Input, picture: bytes
) -> None:
    async with DecodePool(size=2, timeout_s=30) as pool:
        await pool.warm()
        pids = {worker.process.pid for worker in pool._workers}
        answered = 0
        for row in hostile.values():
            for source in (row.path.read_bytes(), row.path):
                try:
                    decoded = await pool.video(source, spec=spec, plan=plan)
                except RequestError:
                    continue
                answered += decoded.clip.source.frames_decoded == row.frames  # type: ignore[union-attr]
            if row.path.name not in {"anim.webp", "jpeg_named.mp4"}:  # these two are images, by content
                with pytest.raises(RequestError):
                    await pool.image(row.path.read_bytes(), spec=spec)
        assert answered == 2 * sum(row.frames > 0 and row.path.name != "jpeg_named.mp4" for row in hostile.values())
        assert await works(pool, picture, spec)
        assert {worker.process.pid for worker in pool._workers} == pids
        for pid in pids:
            assert psutil.Process(pid).memory_info().rss < 400 * 2**20


LONG = Windows(window_s=2.0, stride_s=1.0, frames=16)


@pytest.mark.data
async def test_frames_come_in_stretches_and_the_worker_is_free_afterwards(
    pool: DecodePool, hostile: dict[str, Hostile], spec: Input, picture: bytes
) -> None:
    pid = await pool.submit(os.getpid)
    for source in (hostile["h264.mp4"].path, hostile["h264.mp4"].path.read_bytes()):
        found = [stretch async for stretch in pool.frames(source, spec=spec, plan=LONG)]
        whole = (await pool.video(source, spec=spec, plan=LONG)).clip
        assert (np.concatenate([stretch.frames for stretch in found]) == whole.frames).all()
        assert found[-1].info == whole.source
        assert found[-1].progress_s == pytest.approx(found[-1].claimed_s, abs=0.1)
    with pytest.raises(UnsupportedMedia):
        _ = [stretch async for stretch in pool.frames(b"plain words", spec=spec, plan=LONG)]
    limits = Limits(max_duration_s=1.0)
    with pytest.raises(TooLong, match="at most 1 s"):
        _ = [stretch async for stretch in pool.frames(source, spec=spec, plan=LONG, limits=limits)]
    assert await pool.submit(os.getpid) == pid
    assert await works(pool, picture, spec)


@pytest.mark.data
async def test_leaving_early_frees_the_worker_at_once(hostile: dict[str, Hostile], spec: Input, picture: bytes) -> None:
    async with DecodePool(size=1) as pool:
        await pool.warm()
        pid = await pool.submit(os.getpid)
        async with aclosing(pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)) as stretches:
            async for stretch in stretches:
                assert stretch.info is None
                break
        assert pool._turns.running == 0
        assert await works(pool, picture, spec)
        await until(lambda: not psutil.pid_exists(pid))


@pytest.mark.data
async def test_the_worker_waits_for_a_slow_reader_who_may_take_longer_than_a_decode(
    hostile: dict[str, Hostile], picture: bytes
) -> None:
    spec = Input(height=224, width=224)
    async with DecodePool(size=1, timeout_s=1.0) as pool:
        await pool.warm()
        (worker,) = pool._workers
        process = psutil.Process(worker.process.pid)
        async with aclosing(pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)) as stretches:
            await anext(stretches)
            # Once its socket is full it sleeps: what nobody reads is not decoded.
            await until(lambda: process.status() == psutil.STATUS_SLEEPING)
            used = process.cpu_times()
            await asyncio.sleep(1.5)
            assert process.cpu_times().user - used.user < 0.1
            await anext(stretches)


@pytest.mark.data
async def test_a_worker_killed_in_the_middle_of_a_video_fails_its_reader_alone(
    pool: DecodePool, hostile: dict[str, Hostile], spec: Input, picture: bytes
) -> None:
    pid = await pool.submit(os.getpid)
    stretches = pool.frames(hostile["long_110s.mp4"].path, spec=spec, plan=LONG)
    await anext(stretches)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DecodeFailed, match="was killed"):
        _ = [stretch async for stretch in stretches]
    assert await works(pool, picture, spec)
