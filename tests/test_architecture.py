"""The service must start where neither TensorFlow nor TensorRT nor pycuda is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKED = (
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "sklearn",
    "matplotlib",
    "models",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )


def test_the_service_imports_and_builds_its_application_with_the_offline_half_blocked() -> None:
    result = python(f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
import service.cli, service.server
from service.api.app import create_app
from service.settings import Settings
print(len(create_app(Settings()).openapi()["paths"]))
""")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 7


def test_blocking_really_blocks() -> None:
    assert "ImportError" in python("import sys; sys.modules['tensorflow'] = None; import tensorflow").stderr or (
        "ModuleNotFoundError" in python("import sys; sys.modules['tensorflow'] = None; import tensorflow").stderr
    )


def test_importing_the_service_loads_no_engine() -> None:
    result = python(
        "import sys, service.cli; print([m for m in ('openvino', 'onnxruntime', 'tensorflow') if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_no_file_is_named_after_a_package_that_it_imports() -> None:
    for file in [*ROOT.glob("service/**/*.py"), *ROOT.glob("models/**/*.py")]:
        text = file.read_text(encoding="utf-8")
        assert f"import {file.stem}\n" not in text, file
