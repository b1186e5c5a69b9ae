"""`marey-build quantize` where INT8 would spoil a bundle: refused by the layer's name, or written by who insists."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from models.cli import main
from service.api.app import create_app
from service.bundle.store import Bundle, open_bundle
from service.settings import Settings
from tests.models.quantize.digits import Digits, hostile, make_bundle, make_dataset


def quantize(bundle: Path, data: Path, *options: str, code: int = 0) -> Result:
    arguments = ["quantize", bundle, "--calibration", data, "--data", data, *options]
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "digits", digits, share=4)


@pytest.fixture
def spoiled(tmp_path: Path, capped_digits: Digits) -> Bundle:
    """Two of its three layers read a hot channel, and no more than one may stay float."""
    return make_bundle(tmp_path / "bundles" / "spoiled", capped_digits, hostile(capped_digits.encoder, 1, 2))


def contents(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir()}


def test_what_no_plan_holds_is_refused_by_the_names_of_its_layers(spoiled: Bundle, data: Path) -> None:
    before = contents(spoiled.path)
    said = quantize(spoiled.path, data, code=1).stderr
    assert "error: INT8 refused: accuracy -" in said
    assert "insist with --force" in said
    _, _, table = said.partition("What INT8 costs most in, each layer alone:\n")
    named = [line.split()[-1] for line in table.splitlines() if "nats" in line]
    assert sorted(named[:2]) == ["conv2/Conv", "conv3/Conv"]
    assert named[2:] == ["conv1/Conv"]
    assert contents(spoiled.path) == before
    assert [path.name for path in spoiled.path.parent.iterdir()] == ["spoiled"], "and nothing is left beside it"


async def test_who_insists_gets_it_and_the_service_tells_everybody(spoiled: Bundle, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(spoiled.path, tmp_path / "served" / "spoiled"))
    await asyncio.to_thread(quantize, copy, data, "--force")
    calibration = open_bundle(copy).manifest.calibration
    assert calibration is not None
    assert (calibration.forced or "").startswith("INT8 refused: accuracy -")
    app = create_app(Settings(bundles=(copy,), decode_workers=1, jobs=None))
    async with app.router.lifespan_context(app), asyncio.timeout(60):
        await app.state.marey.loaded.wait()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://marey") as client:
            told = (await client.get("/models/digits")).json()
    assert calibration.forced in json.dumps(told, ensure_ascii=False)
