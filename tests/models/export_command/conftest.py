"""`marey-build export` on what a test brings, with labels and calibration pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from models.cli import main

LABELS = ("ape", "bee", "cat")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calibration pictures and labels."""
    root = tmp_path_factory.mktemp("given")
    (root / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        picture = cv2.resize(random.integers(0, 256, (4, 4, 3), np.uint8), (24, 20), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "pictures" / f"{number:02d}.png"), picture)
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return root


def export(given: Path, out: Path, *arguments: object, code: int = 0, labels: str = "labels.txt") -> Result:
    common = ("--calibration", given / "pictures", "--labels", given / labels, "--out", out)
    result = CliRunner().invoke(main, ["export", *map(str, (*arguments, *common))])
    assert result.exit_code == code, result.output + repr(result.exception)
    if code:
        assert not out.exists()
    assert not list(out.parent.glob(".*")), "no stage is left"
    return result
