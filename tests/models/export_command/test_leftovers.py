"""An export that fails or is interrupted leaves nothing, and what was there as it was."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner, Result

from models.cli import main
from tests.models.export_command.networks import images


def build(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_calibration_that_fails_leaves_nothing_and_a_bundle_that_was_there_as_it_was(
    given: Path, tmp_path: Path
) -> None:
    images().save(tmp_path / "m.keras")
    results = tmp_path / "results"
    results.mkdir()
    model = ("export", tmp_path / "m.keras", "--preprocess", "0/255", "--labels", given / "labels.txt")
    assert build(*model, "--calibration", given / "pictures", "--out", results / "good").exit_code == 0
    before = snapshot(results)
    (tmp_path / "empty").mkdir()
    for name in ("three", "broken"):
        (tmp_path / name).mkdir()
    for number in range(40):
        (tmp_path / "broken" / f"{number}.png").write_bytes(b"no picture")
        if number < 3:
            shutil.copy(given / "pictures" / f"{number:02d}.png", tmp_path / "three")
    for name, saying in (
        ("missing", "missing is no folder"),
        ("empty", "empty holds no images or videos"),
        ("three", "3 calibration frames were found, at least 32"),
        ("broken", "40 of 40 calibration files cannot be read"),
    ):
        for out in ("new", "good"):
            result = build(*model, "--calibration", tmp_path / name, "--out", results / out)
            assert result.exit_code == 1
            assert saying in result.stderr
            assert snapshot(results) == before
            assert [path.name for path in results.iterdir()] == ["good"]


def test_an_export_that_is_interrupted_while_it_calibrates_leaves_nothing(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    results = tmp_path / "results"
    arguments = (tmp_path / "m.keras", "--preprocess", "0/255", "--labels", given / "labels.txt")
    arguments = (*arguments, "--calibration", given / "pictures", "--out", results / "out")
    command = [sys.executable, "-m", "models", "export", *map(str, arguments)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not list(results.glob(".out.*/bundle")):
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert running.returncode not in (0, None), error
    assert "read as:" in error, "it had come as far as that"
    assert not results.exists()
