"""`marey bench --url --overload`: servers of known capacity, one that guards itself and one that does not; and a real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from service.bench.load import Address
from service.bench.overload import Offered, measure_overload
from service.bench.overload_report import Figures, OverloadReport, judged, overload_table
from service.bench.report import Milliseconds
from service.cli import main
from tests.calm import Calm

TURN_S = 0.02
# What it says it grants, and where it begins to refuse: the difference is for a machine that is busy with other tests.
WAIT_S, REFUSES_S = 0.1, 0.05


@asynccontextmanager
async def one_at_a_time(*, guarded: bool) -> AsyncIterator[Address]:
    """A service of 50 requests a second. `guarded`: it refuses whoever would wait longer than `REFUSES_S`."""
    turn, waiting = asyncio.Lock(), 0

    async def answer(method: str, path: str) -> tuple[int, Any]:
        nonlocal waiting
        if method == "GET":
            tasks = {"models": [{"tasks": ["image"]}]}
            return 200, {"limits": [{"name": "queue_ms", "value": WAIT_S * 1000}]} if path == "/limits" else tasks
        if guarded and waiting * TURN_S > REFUSES_S:
            return 429, {"code": "overloaded"}
        waiting += 1
        try:
            async with turn:
                await asyncio.sleep(TURN_S)
        finally:
            waiting -= 1
        return 200, {"predictions": [], "timings_ms": {"total": 20}, "model": {}, "batch_size": 1}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if "Content-Length: " in head:
                    await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
                status, document = await answer(*head.split()[:2])
                body = json.dumps(document).encode()
                writer.write(f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(60), listener:
        yield Address("127.0.0.1", listener.sockets[0].getsockname()[1])


async def measured(*, guarded: bool, rate: float | None = None, seconds: float = 1.2) -> OverloadReport:
    plan = Offered(rate=rate, overload=3.0, seconds=seconds, rounds=2)
    async with one_at_a_time(guarded=guarded) as address:
        return await measure_overload(
            address, plan, samples=None, levels=(2, 4), command="marey bench", tell=lambda _text: None
        )


async def judged_as(wanted: dict[str, bool], *, guarded: bool, seconds: float) -> OverloadReport:
    """The first of four measurements that is judged as `wanted`: on a machine that others use, sleeping 20 ms may take 40.

    Skips where all four were disturbed, and fails where one was not.
    """
    told: list[str] = []
    for _ in range(4):
        machine = Calm()
        report = await measured(guarded=guarded, seconds=seconds)
        if by_start(report) == wanted:
            return report
        disturbed = machine.disturbed()
        assert disturbed, f"{by_start(report)}: {report.figures}"
        told.append(disturbed)
    pytest.skip("never undisturbed: " + "; ".join(told))


def by_start(report: OverloadReport) -> dict[str, bool]:
    return {check.what.split(" ")[0] + " " + check.what.split(" ")[1]: check.met for check in report.checks}


async def test_a_service_that_guards_itself_meets_what_is_asked_of_it() -> None:
    wanted = ("p99 of", "p95 of", "goodput ≥", "failed =", "hung =", "lost =")
    report = await judged_as(dict.fromkeys(wanted, True), guarded=True, seconds=2.0)
    figures = report.figures
    assert report.met
    for each in report.rounds:
        assert 25 < each.capacity_per_s <= 51, "50 a second, less what sleeping costs"
        assert each.offered_per_s == pytest.approx(3 * each.capacity_per_s, rel=0.01)
    assert figures.outcomes["refused"] > figures.outcomes["accepted"] > 30
    assert figures.codes == {"overloaded": figures.outcomes["refused"]}
    assert figures.accepted_ms is not None
    assert 40 < figures.accepted_ms.p50 < 200, "those who are let in wait for those before them"
    assert "  met  goodput ≥ 90% of capacity" in overload_table(report)


async def test_a_service_that_lets_everybody_in_is_found_out() -> None:
    """It answers as many as the other, and each later than the one before: a closed loop would not have noticed."""
    wanted = {"p99 of": False, "goodput ≥": True, "failed =": True, "hung =": True, "lost =": True}
    report = await judged_as(wanted, guarded=False, seconds=1.2)
    assert not report.met
    assert report.figures.accepted_ms is not None
    assert report.figures.accepted_ms.p99 > 600, "0.6 s of load at three times what it can do"
    assert "MISSED  p99 of accepted" in overload_table(report)


async def test_a_rate_that_it_can_keep_is_not_judged_by_its_goodput() -> None:
    report = await measured(guarded=True, rate=10.0)
    assert report.overload is None
    assert not any("goodput" in check.what for check in report.checks)
    assert report.figures.outcomes["refused"] == 0
    assert 3 <= report.figures.outcomes["accepted"] <= 30


def figures(**changes: Any) -> Figures:
    spread = Milliseconds(n=1, p50=1, p90=1, p95=1, p99=1, min=1, mean=1)
    outcomes = {"accepted": 1, "refused": 0, "failed": 0, "hung": 0, "lost": 0}
    values = {"outcomes": outcomes, "codes": {}, "unloaded_ms": spread, "accepted_ms": spread, "refused_ms": spread}
    return Figures(**{**values, "late_ms": spread, "goodput": 1.0, **changes})


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"goodput": 0.89}, ["goodput ≥ 90% of capacity"]),
        ({"outcomes": {"accepted": 1, "refused": 0, "failed": 1, "hung": 2, "lost": 3}}, ["failed = 0", "hung = 0", "lost = 0"]),
        ({"refused_ms": Milliseconds(n=1, p50=1, p90=1, p95=51, p99=51, min=1, mean=1)}, ["p95 of refusals ≤ 50 ms"]),
        (
            {"accepted_ms": Milliseconds(n=1, p50=1, p90=1, p95=1, p99=152, min=1, mean=1)},
            ["p99 of accepted ≤ unloaded p99 + 1.5 × 100 ms"],
        ),
        ({"accepted_ms": Milliseconds(n=1, p50=1, p90=1, p95=1, p99=150, min=1, mean=1)}, []),
    ],
)  # fmt: skip
def test_each_number_is_judged_by_itself(changes: dict[str, Any], missed: list[str]) -> None:
    checks = judged(figures(**changes), queue_ms=100, judges_goodput=True)
    assert [check.what for check in checks if not check.met] == missed


def bench(*arguments: object, code: int | None = 0) -> Result:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    if code is not None:
        assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_a_real_service_is_measured_and_the_exit_code_says_what_the_verdict_says(
    serve: Any, color_bundle: Any, tmp_path: Path
) -> None:
    file = tmp_path / "red.jpg"
    cv2.imwrite(str(file), np.full((40, 40, 3), (0, 0, 255), np.uint8))
    quick = ("--seconds", "1", "--rounds", "2", "--json", "-")
    with serve(str(color_bundle.path), MAREY_QUEUE_MS="100") as running:
        result = bench("--url", running.url, "--file", file, "--overload", 3, *quick, code=None)
    report = json.loads(result.stdout)
    assert (report["kind"], report["overload"], report["queue_ms"]) == ("overload", 3, 100)
    assert report["figures"]["outcomes"]["accepted"] > 20
    assert {name: report["figures"]["outcomes"][name] for name in ("failed", "hung", "lost")} == {
        "failed": 0, "hung": 0, "lost": 0
    }  # fmt: skip
    assert result.exit_code == (0 if all(check["met"] for check in report["checks"]) else 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--url", "http://127.0.0.1:1", "--rate", 5, "--overload", 3), "one of the two is enough"),
        (("BUNDLE", "--overload", 3), "are for a service at --url"),
        (("--url", "http://127.0.0.1:1", "--overload", 3, "--engine", "openvino"), "an engine of its own"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, arguments: tuple[object, ...], sentence: str) -> None:
    known = {"BUNDLE": tmp_path}
    assert sentence in bench(*(known.get(str(each), each) for each in arguments), code=2).stderr
