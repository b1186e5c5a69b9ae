"""A run that must have a GPU cannot be green by skipping, however a test is skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SKIPS = {
    "test_by_a_mark.py": """
import pytest
@pytest.mark.skip(reason="no GPU: by a mark")
def test_skipped(): raise AssertionError
""",
    "test_by_a_condition.py": """
import pytest
@pytest.mark.skipif(True, reason="no GPU: by a condition")
def test_skipped(): raise AssertionError
""",
    "test_by_a_fixture.py": """
import pytest
@pytest.fixture(scope="session", autouse=True)
def gpu(): pytest.skip("no GPU: by a fixture")
def test_skipped(): raise AssertionError
""",
    "test_in_the_test.py": """
import pytest
def test_skipped(): pytest.skip("no GPU: in the test")
""",
    "test_import_in_the_test.py": """
import pytest
def test_skipped(): pytest.importorskip("no_such_package", reason="no GPU: import in the test")
""",
    "test_import_of_the_module.py": """
import pytest
pytest.importorskip("no_such_package", reason="no GPU: import of the module")
def test_skipped(): raise AssertionError
""",
    "test_the_whole_module.py": """
import pytest
pytest.skip("no GPU: the whole module", allow_module_level=True)
def test_skipped(): raise AssertionError
""",
    "test_an_expected_failure.py": """
import pytest
@pytest.mark.xfail(reason="no GPU: an expected failure", strict=False)
def test_skipped(): raise AssertionError
""",
    "test_unittest.py": """
import unittest
class TestSkipped(unittest.TestCase):
    @unittest.skip("no GPU: unittest")
    def test_skipped(self): raise AssertionError
""",
}


def run(*arguments: object, required: str) -> tuple[int, dict[str, int], str]:
    """Exit code, how many of each outcome, and the output of pytest on a machine whose GPUs are hidden."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1", "MAREY_REQUIRE_GPU": required},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    last = process.stdout.strip().splitlines()[-1]
    counts = {word.removesuffix("s"): int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", last)}
    return process.returncode, counts, process.stdout + process.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("skips")
    (made / "pytest.ini").write_text("[pytest]\n")
    for name, text in SKIPS.items():
        (made / name).write_text(text)
    return made


def test_every_way_to_skip_is_a_failure_where_a_gpu_is_required(folder: Path) -> None:
    code, counts, said = run("-p", "tests.gpu.guard", "-c", folder / "pytest.ini", folder, required="1")
    assert code == 1, said
    assert counts.get("failed", 0) + counts.get("error", 0) == len(SKIPS), said
    assert not set(counts) & {"passed", "skipped", "xfailed"}, said
    for name in SKIPS:
        assert re.search(rf"^(FAILED|ERROR) \S*{name}", said, re.MULTILINE), said
    assert said.count("MAREY_REQUIRE_GPU is set, and this did not run") >= len(SKIPS), said


@pytest.mark.parametrize("required", ["", "0"])
def test_where_none_is_required_they_are_skipped_as_ever(folder: Path, required: str) -> None:
    code, counts, said = run("-p", "tests.gpu.guard", "-c", folder / "pytest.ini", folder, required=required)
    assert code == 0, said
    assert counts["skipped"] + counts["xfailed"] == len(SKIPS), said


def test_one_test_that_passes_does_not_hide_one_that_was_skipped(folder: Path) -> None:
    (folder / "test_passes.py").write_text("def test_passes(): pass\n")
    try:
        code, counts, said = run(
            "-p", "tests.gpu.guard", "-c", folder / "pytest.ini", folder / "test_passes.py",
            folder / "test_import_of_the_module.py", required="1",
        )  # fmt: skip
    finally:
        (folder / "test_passes.py").unlink()
    assert (code, counts.get("passed")) == (1, 1), said


@pytest.mark.parametrize(("required", "expected"), [("1", 1), ("0", 0)])
def test_without_a_gpu_the_gpu_tests_fail_or_are_skipped_with_the_reason(required: str, expected: int) -> None:
    code, counts, said = run("tests/gpu", required=required)
    assert code == expected, said
    assert counts.get("passed", 0) == 0
    assert set(counts) & {"failed", "error", "skipped"} == ({"error"} if expected else {"skipped"}), said
    assert counts["error" if expected else "skipped"] > 50
    assert "TensorRT has no GPU here: " in said
