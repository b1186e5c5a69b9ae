"""What a worker answers is what decoding here gives, and it holds decoders alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle.manifest import Input
from service.errors import DecodeFailed, UnsupportedMedia
from service.media.image import decode_image
from service.media.limits import Limits
from service.media.workers import DecodePool
from tests.media.workers.conftest import works

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(60)


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


async def test_an_error_that_nobody_foresaw_is_a_failed_decode_and_logged(
    pool: DecodePool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DecodeFailed, match="ZeroDivisionError"):
        await pool.submit(eval, "1 / 0")
    assert "ZeroDivisionError" in caplog.text


async def test_a_worker_holds_decoders_and_nothing_of_the_server(pool: DecodePool, picture: bytes, spec: Input) -> None:
    assert await works(pool, picture, spec)
    loaded = await pool.submit(eval, "sorted({name.split('.')[0] for name in __import__('sys').modules})")
    assert {"cv2", "PIL", "numpy"} <= set(loaded)
    assert not {"openvino", "onnxruntime", "fastapi", "uvicorn", "tensorflow", "pytest", "asyncio"} & set(loaded)


def test_the_server_imports_no_decoder_to_run_the_pool() -> None:
    code = "import sys, service.media.workers; print('cv2' in sys.modules)"
    here = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert here.stdout.strip() == "False"
