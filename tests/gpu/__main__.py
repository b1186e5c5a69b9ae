"""Everything that needs a GPU, by one command: `python -m tests.gpu OUT [--minutes 9] [--only STEP ...]`.

Writes OUT/DATE-GPU-FLAVOUR-VERSION.json and .log; see tests/gpu/README.md. Exit code 0 if every step passed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.bundle.store import SHIPPED
from tests.gpu import guard, ledger
from tests.gpu.document import ROOT, Document
from tests.gpu.steps import Done, Step, pytest, python, run

_BENCH = ("--batch", "1", "--batch", "16", "--batch", "64", "--seconds", "0.5", "--rounds", "4")
_TORCH = ("--engine", "torch", "--torch-mode", "reduce-overhead")


class Run:
    """One run: its time, its environment, its results so far."""

    def __init__(self, out: Path, work: Path, *, minutes: float, only: tuple[str, ...]) -> None:
        self._ends = time.monotonic() + 60 * minutes
        self._work, self._only = work, only
        self.lines = work / "ledger.jsonl"
        self.done: list[Done] = []
        self.reports: dict[str, Any] = {}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._environment = {
            "MAREY_ENGINE_CACHE": str(work / "engines"),
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "MAREY_GPU_RESNET": str(work / "resnet50-lstm"),
            guard.VARIABLE: "1",
            ledger.VARIABLE: str(self.lines),
        }
        self._document: Document | None = None
        with (work / "identity.log").open("w", encoding="utf-8") as log:
            asked = self._run(Step("identity", python("-m", "tests.gpu.identity"), 60), log)
        told = _last_json(asked.said) or {
            "lacking": f"asking for the GPU and TensorRT {asked.outcome}: {asked.said[-500:]}"
        }
        self._document = Document(out, identity=told, lines=self.lines)
        self.runs_tensorrt = False

    def all(self) -> dict[str, Any]:
        """Every step in the order of its worth: what comes last is what is lost where time runs out."""
        assert self._document is not None
        with self._document.log.open("w", encoding="utf-8") as log:
            for step in self._steps():
                if self._only and step.name not in self._only:
                    continue
                log.write(f"\n===== {step.name}: {' '.join(step.command)}\n")
                print(f"\n===== {step.name}", flush=True)  # noqa: T201  # it is a command
                done = self._run(step, log)
                if done.outcome == "not run":
                    log.write(f"not run: {done.said}\n")
                self.done.append(done)
                self._keep(done)
                content = self._document.write(self.done, self.reports)
        return content

    def _steps(self) -> Iterator[Step]:
        yield Step("nvidia-smi", ("nvidia-smi",), 30)
        yield Step("open question", pytest("open_question"), 120)
        yield Step("doctor", python("-m", "service", "doctor", "--json"), 90)
        self.runs_tensorrt = any(
            line["kind"] == "test" and line["outcome"] == "passed" for line in ledger.read(self.lines)
        )
        if self.runs_tensorrt or self._only:
            yield Step("engine", pytest("engine"), 180)
            yield Step("resnet", python("-m", "tests.gpu.resnet_lstm", self._environment["MAREY_GPU_RESNET"]), 90)
            yield Step("speed", pytest("speed"), 180)
            yield Step("service", pytest("service"), 150)
            yield Step("clip networks", pytest("clip_network"), 120)
            yield Step("cache", pytest("cache"), 90)
            yield Step("memory", pytest("memory"), 180)
            yield Step("faults", pytest("faults"), 90)
            for name in ("imagenet", "fight"):
                yield self._bench(name, SHIPPED / name, "--engine", "tensorrt", *_TORCH, *_BENCH)
            yield self._bench(
                "http", SHIPPED / "imagenet", "--http", "--engine", "tensorrt", "--concurrency", "64", "--seconds", "6",
                "--rounds", "3",
            )  # fmt: skip
        else:
            yield from self._without_tensorrt()

    def _without_tensorrt(self) -> Iterator[Step]:
        """This TensorRT does not run on this card: the same graphs by what does, so that the card is measured at all."""
        print("TensorRT does not run here; the same graphs are measured by onnxruntime's CUDA provider and by torch.")  # noqa: T201
        yield Step("resnet", python("-m", "tests.gpu.resnet_lstm", self._environment["MAREY_GPU_RESNET"]), 90)
        asked = "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()"
        yield Step("onnxruntime has CUDA", python("-c", asked), 30)
        cuda = ("--engine", "onnxruntime") if self.done and self.done[-1].outcome == "passed" else ()
        for name, folder in (
            ("resnet50-lstm", self._work / "resnet50-lstm"),
            ("imagenet", SHIPPED / "imagenet"),
            ("fight", SHIPPED / "fight"),
        ):
            yield self._bench(name, folder, *cuda, *_TORCH, *_BENCH)

    def _bench(self, name: str, bundle: Path, *options: str) -> Step:
        file = str(self._work / f"bench {name}.json")
        return Step(f"bench {name}", python("-m", "service", "bench", str(bundle), *options, "--json", file), 100)

    def _run(self, step: Step, log: Any) -> Done:
        left = self._ends - time.monotonic()
        return run(step, cwd=ROOT, environment=self._environment, left_s=left, log=log)

    def _keep(self, done: Done) -> None:
        name, file = done.step.name, self._work / f"{done.step.name}.json"
        if name == "doctor":
            self.reports[name] = _document_in(done.said) or done.said
        elif name == "nvidia-smi":
            self.reports[name] = done.said
        elif file.is_file():
            self.reports[name] = json.loads(file.read_text(encoding="utf-8"))


def _last_json(said: str) -> Any:
    """The last line that is JSON: libraries may print before it."""
    for line in reversed(said.splitlines()):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _document_in(said: str) -> Any:
    """The JSON document among what was printed."""
    start = said.find("{")
    try:
        return json.JSONDecoder().raw_decode(said[start:])[0] if start >= 0 else None
    except ValueError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=9, help="for all steps together (default 9)")
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="only this step; repeatable")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="marey-gpu-") as work:
        ran = Run(given.out.resolve(), Path(work), minutes=given.minutes, only=tuple(given.only))
        content = ran.all()
    print("\n" + "=" * 60)  # noqa: T201
    for step in content["steps"]:
        print(f"{step['outcome']:>9}  {step['seconds']:7.1f} s  {step['step']}")  # noqa: T201
    for test in content["tests"]:
        if test["outcome"] != "passed":
            print(f"   FAILED  {test['test']} ({test.get('when')})")  # noqa: T201
    for verdict in content["verdicts"]:
        print(f"  VERDICT  {verdict}")  # noqa: T201
    return 0 if content["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
