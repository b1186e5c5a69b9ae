"""The command that a GPU machine runs: steps with limits, and results that survive what goes wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import ledger
from tests.gpu.document import Document
from tests.gpu.steps import Done, Step, python, run

ROOT = Path(__file__).parents[1]


def done(code: str, *, limit_s: float = 30, left_s: float = 30) -> tuple[Done, str]:
    log = io.StringIO()
    step = Step("a step", python("-c", code), limit_s)
    return run(step, cwd=ROOT, environment=os.environ, left_s=left_s, log=log), log.getvalue()


def test_a_step_passes_or_fails_by_its_exit_code_and_its_output_is_kept() -> None:
    passed, log = done("import sys; print('well'); print('done', file=sys.stderr)")
    assert (passed.outcome, passed.exit_code) == ("passed", 0)
    assert sorted(passed.said.splitlines()) == sorted(log.splitlines()) == ["done", "well"]
    failed, _ = done("raise SystemExit(3)")
    assert (failed.outcome, failed.exit_code) == ("failed", 3)
    crashed, _ = done("import os; os.abort()")
    assert (crashed.outcome, crashed.exit_code) == ("failed", -6)


@pytest.mark.parametrize("limits", [{"limit_s": 2}, {"left_s": 2}])
def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, limits: dict[str, float]) -> None:
    pid = tmp_path / "pid"
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    code = (
        f"import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        f"open({str(pid)!r}, 'w').write(str(child.pid)); print('started', flush=True); time.sleep(300)"
    )
    began = time.monotonic()
    late, log = done(code, **limits)
    assert late.outcome == "timed out"
    assert "started" in log
    assert time.monotonic() - began < 25
    until = time.monotonic() + 20
    while (alive := _alive(pid.read_text())) and time.monotonic() < until:
        time.sleep(0.05)  # a killed process is still there for a moment
    assert not alive


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_step_for_which_no_time_is_left_is_said_to_be_not_run() -> None:
    late, _ = done("print('never')", left_s=0.5)
    assert (late.outcome, late.said) == ("not run", "no time was left")


def test_what_is_not_there_is_not_run_and_not_green(tmp_path: Path) -> None:
    step = Step("absent", ("no-such-command-anywhere",), 30)
    found = run(step, cwd=ROOT, environment=os.environ, left_s=30, log=io.StringIO())
    assert found.outcome == "not run"
    document = Document(tmp_path, identity={"gpu": "X"}, lines=tmp_path / "none")
    assert document.write([found], {})["passed"] is False


def test_the_results_name_what_ran_where_and_keep_a_failure_over_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(ledger.VARIABLE, str(lines))
    ledger.write("test", test="a", outcome="passed", when="call", seconds=1.0, said="")
    ledger.write("test", test="a", outcome="failed", when="teardown", seconds=1.1, said="a context was left")
    ledger.write("test", test="b", outcome="failed", when="call", seconds=0.1, said="wrong")
    ledger.write("test", test="b", outcome="passed", when="call", seconds=0.1, said="")
    ledger.write("figures", test="a", figures={"verdict": "it runs", "milliseconds": 2.5})
    ledger.write("figures", test="a", figures={"ratio": 1.4})
    with lines.open("a") as file:
        file.write('{"kind": "test", "test": "c", "outc')  # a driver took the process down
    identity = {"gpu": "NVIDIA H200", "flavour": "TensorRT-RTX", "version": "1.7.1.116"}
    document = Document(tmp_path / "out", identity=identity, lines=lines)
    assert document.file.name.endswith("-nvidia-h200-tensorrt-rtx-1.7.1.116.json")
    document.write([], {})
    content = json.loads(document.file.read_text())
    assert [(test["test"], test["outcome"]) for test in content["tests"]] == [("a", "failed"), ("b", "failed")]
    assert content["figures"] == {"a": {"verdict": "it runs", "milliseconds": 2.5, "ratio": 1.4}}
    assert content["verdicts"] == ["it runs"]
    assert {"date", "gpu", "driver", "flavour", "version", "command", "commit", "tree", "machine"} <= set(content)
    assert len(content["tree"]) == 64


def test_on_a_machine_without_a_gpu_the_run_ends_red_and_says_why(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.gpu", tmp_path, "--only", "open question"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (file,) = tmp_path.glob("*-no-gpu-*.json")
    content = json.loads(file.read_text())
    assert content["passed"] is False
    assert content["lacking"]
    assert [(step["step"], step["outcome"]) for step in content["steps"]] == [("open question", "failed")]
    assert {test["outcome"] for test in content["tests"]} == {"failed"}
    assert "TensorRT has no GPU here" in file.with_suffix(".log").read_text()
