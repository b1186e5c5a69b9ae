"""Several machines: together they answer what one does, and one that is lost takes little with it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from service.bundle.store import Bundle
from tests.conftest import ROOT, Served, serving
from tests.scale.conftest import ENGINE, INGRESS, Load
from tests.scale.machines import Cluster, Machine

CLIENTS = 8
TIMEOUT_MS = 8_000
# What an engine, or a worker of an archive, asks for here: the first machine has not as many, and each of the others once.
CORES = 4
# So long an engine has got no further when its machine ends: most often it holds requests then.
HELD_S = 2.0
WORKER = "ray::MapWorker"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, list[Machine]]]:
    """A machine that takes requests, and two that run networks."""
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"making machines needs root{''.join(f', and {name}' for name in missing)}")
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no machines can be made here: {tried.stderr.strip()}")
    with ExitStack() as stack:
        cluster = Cluster(stack, tmp_path)
        yield cluster, [cluster.join(cores=cores) for cores in (CORES - 1, CORES, CORES)]


@contextmanager
def serving_on(cluster: Cluster, front: Machine, *back: Machine, bundle: Path, folder: Path) -> Iterator[Served]:
    """A service whose requests come to `front`, and that has an engine on each of `back`."""
    settings = {
        "MAREY_JOBS": str(folder),
        "MAREY_TIMEOUT_MS": str(TIMEOUT_MS),
        "MAREY_RAY_INGRESS_CPUS": "1",
        "MAREY_RAY_ENGINE_CPUS": str(CORES),
        **cluster.variables,
    }
    asked = (str(bundle), "--host", "0.0.0.0", "--ray", "--ingress", "1", "--engines", str(len(back)))
    with serving(*asked, inside=front.inside, **settings) as running:
        assert front.runs(INGRESS)
        assert not front.runs(ENGINE)
        assert all(each.runs(ENGINE) for each in back)
        yield Served(running.process, running.url.replace("0.0.0.0", front.address), on_ray=True)


async def test_what_was_accepted_outlives_a_machine_and_another_takes_its_place(
    cluster: tuple[Cluster, list[Machine]], color_bundle: Bundle, make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    joined, machines = cluster
    clip, lost = make_video("green", frames=12), machines[1]
    with serving_on(joined, *machines, bundle=color_bundle.path, folder=tmp_path / "jobs") as served:
        async with httpx.AsyncClient(timeout=30) as client:
            for machine in machines:
                url = served.url.replace(machines[0].address, machine.address)
                answer = await client.post(f"{url}/classify/video", files={"file": clip})
                assert answer.json()["predictions"][0]["label"] == "green"
        load = Load(served, clip)
        async with load.running(clients=CLIENTS):
            await load.until(lambda: load.answered >= 5 * CLIENTS)
            with lost.held(ENGINE):
                await asyncio.sleep(HELD_S)
                off_at = time.monotonic()
                lost.switch_off()
            await load.until(lambda: sum(each.sent > off_at for each in load.asked) >= 5 * CLIENTS)
            another = joined.join(cores=CORES)
            await load.until(lambda: another.runs(ENGINE))
        assert {each.status for each in load.asked} == {200}
        assert [each for each in load.asked if each.sent < off_at < each.ended]


async def test_with_a_machine_that_is_cut_off_only_what_it_holds_is_lost(
    cluster: tuple[Cluster, list[Machine]], color_bundle: Bundle, make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    """It has not said that it is gone, and is waited for."""
    joined, machines = cluster
    cut, clip = machines[2], make_video("green", frames=12)
    with serving_on(joined, *machines, bundle=color_bundle.path, folder=tmp_path / "jobs") as served:
        load = Load(served, clip)
        async with load.running(clients=CLIENTS):
            await load.until(lambda: load.answered >= 5 * CLIENTS)
            cut.unplug()
            cut_at = time.monotonic()
            await load.until(lambda: time.monotonic() > cut_at + TIMEOUT_MS / 1000 + 1)
            cut.plug_in()
    lost = [each for each in load.asked if each.status != 200]
    assert len(lost) <= CLIENTS
    assert {each.status for each in lost} <= {504}
    assert all(0 <= each.ended - each.sent - TIMEOUT_MS / 1000 < 4 for each in lost)
    assert sum(each.sent > cut_at and each.status == 200 for each in load.asked) >= 5 * CLIENTS


def test_an_archive_outlives_a_machine(
    cluster: tuple[Cluster, list[Machine]], color_bundle: Bundle, make_video: Callable[..., bytes], tmp_path: Path
) -> None:
    joined, (front, *back) = cluster
    folder, out = tmp_path / "archive", tmp_path / "results.parquet"
    folder.mkdir()
    clip = make_video("red", "green", "blue", frames=300)
    for number in range(160):
        (folder / f"{number:03}.mp4").write_bytes(clip)
    command = [*front.inside, sys.executable, "-m", "service", "classify-archive", str(folder), "--out", str(out)]
    command += ["--bundle", str(color_bundle.path), "--workers", "2", "--json"]
    settings = {"MAREY_THREADS": str(CORES - 1), "MAREY_DECODE_WORKERS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        env={**os.environ, **joined.variables, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        parts = out.with_name(f"{out.name}.parts")
        while not list(parts.glob("part-*.parquet")) or not all(each.runs(WORKER) for each in back):
            assert process.poll() is None
            time.sleep(0.05)
        assert not front.runs(WORKER)
        back[0].switch_off()
        said, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert json.loads(said) == {"out": str(out), "files": 160, "new": 160, "gone": 0, "failed": 0}
    found = pq.read_table(out).to_pylist()
    assert [each["path"] for each in found] == [str(folder / f"{number:03}.mp4") for number in range(160)]
    assert len({each["answer"] for each in found}) == 1
