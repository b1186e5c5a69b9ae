"""The spool with real files: where they lie, what they may hold, and that none of them is left."""

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import ServiceError, SpoolFull, TooLarge
from service.spool import IN_MEMORY, Spool, Upload

ROOT = Path(__file__).parents[1]
MIB = 2**20
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    yield spool
    spool.close()
    assert list(tmp_path.iterdir()) == []


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def until(condition: Callable[[], bool]) -> None:
    """The disk's threads tell nobody when they are done."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def emptied(spool: Spool, folder: Path) -> None:
    await until(lambda: not spool.used_bytes and not files(folder))


async def spooled(spool: Spool, *pieces: bytes, max_bytes: int = 64 * MIB) -> Upload:
    with spool.draft(max_bytes=max_bytes) as draft:
        for piece in pieces:
            await draft.write(piece)
        return await draft.finish()


async def test_up_to_a_mebibyte_stays_in_memory(spool: Spool, tmp_path: Path) -> None:
    content = os.urandom(IN_MEMORY)
    upload = await spooled(spool, content[:1000], content[1000:])
    assert (upload.source, upload.size) == (content, IN_MEMORY)
    assert files(tmp_path) == []
    assert spool.used_bytes == 0


async def test_one_byte_more_is_a_file_in_a_folder_that_only_we_may_enter(spool: Spool, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB + 1)
    pieces = [content[at : at + 65_536] for at in range(0, len(content), 65_536)]
    with await spooled(spool, *pieces) as upload:
        assert isinstance(upload.source, Path)
        assert upload.source.read_bytes() == content
        assert upload.size == spool.used_bytes == len(content)
        assert stat.S_IMODE(upload.source.parent.stat().st_mode) == 0o700
    await emptied(spool, tmp_path)
    upload.close()
    await asyncio.sleep(0)
    assert spool.used_bytes == 0


async def test_a_file_that_grows_too_large_is_refused_while_it_comes_and_leaves_nothing(
    spool: Spool, tmp_path: Path
) -> None:
    with pytest.raises(TooLarge, match="more than the 3145728 bytes"):
        await spooled(spool, *[bytes(65_536)] * 100, max_bytes=3 * MIB)
    await emptied(spool, tmp_path)


async def test_all_files_together_are_bounded_and_room_comes_back(spool: Spool, tmp_path: Path) -> None:
    first = await spooled(spool, bytes(5 * MIB))
    with pytest.raises(SpoolFull, match="of the 8388608 bytes") as caught:
        await spooled(spool, *[bytes(MIB)] * 4)
    assert caught.value.retry_after_s
    await until(lambda: spool.used_bytes == 5 * MIB)
    with pytest.raises(SpoolFull):
        spool.check_room(3 * MIB + 1)
    spool.check_room(3 * MIB)
    spool.check_room(IN_MEMORY)
    first.close()
    await emptied(spool, tmp_path)
    (await spooled(spool, bytes(8 * MIB))).close()
    await emptied(spool, tmp_path)


async def test_a_file_larger_than_the_whole_spool_is_too_large_whoever_else_is_there(
    spool: Spool, tmp_path: Path
) -> None:
    saying = "and the disk may hold 8388608 of uploads; send a smaller one, or raise MAREY_MAX_SPOOL_BYTES"
    with await spooled(spool, bytes(7 * MIB)), pytest.raises(TooLarge, match=f"8388609 bytes or more, {saying}"):
        spool.check_room(8 * MIB + 1)
    await emptied(spool, tmp_path)
    with pytest.raises(TooLarge, match=f"bytes or more, {saying}"):
        await spooled(spool, *[bytes(2 * MIB)] * 5)
    await emptied(spool, tmp_path)


async def test_a_disk_that_is_full_is_a_full_spool(spool: Spool, tmp_path: Path) -> None:
    """By the limit on a file's size, which the kernel reports where the disk would be full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
        with pytest.raises(SpoolFull, match="disk that uploads are written to is full"):
            await spooled(spool, bytes(3 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    await emptied(spool, tmp_path)


async def test_a_folder_that_vanished_is_the_services_fault_and_said_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=8 * MIB)
    spool.open()
    next((tmp_path / "spool").iterdir()).rmdir()
    with pytest.raises(ServiceError, match="could not be written to disk"):
        await spooled(spool, bytes(2 * MIB))
    spool.close()


async def test_whoever_is_cancelled_while_the_disk_works_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go_on.wait(20)

    for _ in range(2):  # both of its threads
        spool.submit(hold)
    writing = asyncio.create_task(spooled(spool, bytes(2 * MIB)))
    await asyncio.to_thread(busy.wait, 20)
    await until(lambda: spool.used_bytes > 0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    go_on.set()
    await emptied(spool, tmp_path)


async def test_the_event_loop_goes_on_while_the_disk_works(spool: Spool) -> None:
    go_on = threading.Event()
    for _ in range(2):
        spool.submit(lambda: go_on.wait(20) and None)
    writing = asyncio.create_task(spooled(spool, bytes(2 * MIB)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    go_on.set()
    (await writing).close()


@pytest.mark.parametrize("size", [1000, 2 * MIB])
async def test_an_upload_can_be_kept_elsewhere(
    size: int, spool: Spool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = os.urandom(size)
    kept = tmp_path_factory.mktemp("kept") / "file"
    upload = await spooled(spool, content)
    await upload.save(kept)
    assert kept.read_bytes() == content


LEFT = """
import asyncio, os, sys
from pathlib import Path
from service.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=1 << 30)
spool.open()
async def main():
    with spool.draft(max_bytes=1 << 30) as draft:
        await draft.write(bytes(2 << 20))
        print("there", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


def test_what_a_killed_service_left_is_removed_and_what_another_uses_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEFT, str(tmp_path)]
    services = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        folders = []
        for service in services:
            assert service.stdout is not None
            assert service.stdout.readline() == "there\n"
            folders.append(set(tmp_path.iterdir()) - set().union(*folders))
        assert len(files(tmp_path)) == 2
        services[0].kill()
        services[0].wait()
        foreign = tmp_path / "marey-something-else"
        foreign.mkdir()
        spool = Spool(tmp_path, max_bytes=MIB)
        spool.open()
        assert len(files(tmp_path)) == 1
        assert len(list(tmp_path.iterdir())) == 3
        assert foreign.is_dir()
        spool.close()
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        for service in services:
            service.kill()
            service.communicate()


def test_a_link_that_looks_like_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "marey-spool-1").symlink_to(tmp_path / "precious")
    spool = Spool(tmp_path / "spool", max_bytes=MIB)
    spool.open()
    spool.close()
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused_with_the_setting_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="MAREY_SPOOL"):
        Spool(tmp_path / "file" / "spool", max_bytes=MIB).open()
