"""Files of Keras 2, written by Keras 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def keras2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `keras2_maker` filled."""
    folder = tmp_path_factory.mktemp("keras2")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    maker = Path(__file__).with_name("keras2_maker.py")
    done = subprocess.run(
        [sys.executable, str(maker), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder
