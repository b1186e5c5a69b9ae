"""Hostile files in a pool: they open nothing, and cost no worker and no memory."""

from pathlib import Path

import psutil
import pytest

from service.bundle.manifest import Input, Sampling
from service.errors import RequestError
from service.media.frames import Windows
from service.media.workers import DecodePool
from tests.media.conftest import Hostile
from tests.media.workers.conftest import works

pytestmark = pytest.mark.timeout(60)


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
