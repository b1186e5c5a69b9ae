"""`marey doctor` in a process of its own, on this machine as it is and on machines with broken parts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle.store import SHIPPED, open_bundle
from service.doctor.report import Report, Section
from service.doctor.samples import samples
from tests.clip_bundle import make_clip_bundle

ROOT = Path(__file__).parents[2]
CRASH = "import ctypes; ctypes.string_at(0)"
HANG = "import threading; threading.Event().wait()"


@pytest.fixture(scope="module")
def document(marey) -> Report:
    """What the doctor says of this machine."""
    result = marey("doctor", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert next(iter(json.loads(result.stdout).items())) == ("schema_version", 1)
    return Report.model_validate_json(result.stdout)


def by_name(report: Report, section: Section) -> dict[str, object]:
    return {check.name: check for check in report.sections[section]}


def test_every_section_is_there_and_every_no_has_a_remedy(document: Report) -> None:
    assert set(document.sections) == set(Section.__args__)  # type: ignore[attr-defined]
    for section, checks in document.sections.items():
        assert checks, section
        for check in checks:
            assert check.says, check
            assert (check.state == "no") == bool(check.remedy), check


def test_the_engines_that_run_have_really_run(document: Report) -> None:
    engines = by_name(document, "engines")
    assert list(engines) == ["tensorrt", "openvino", "onnxruntime"]
    tolerance = open_bundle(SHIPPED / "fight").manifest.golden.tolerance
    for name, precision in (("openvino", "int8"), ("onnxruntime", "fp32")):
        facts = engines[name].facts
        assert facts["ran"] is True
        assert (facts["bundle"], facts["precision"]) == ("fight", precision)
        assert facts["tolerance"] == tolerance[precision]
        assert 0 < facts["golden_difference"] <= facts["tolerance"]
        assert facts["milliseconds"] > 0
    assert document.ok
    assert document.engine == next(name for name, check in engines.items() if check.state == "ok")


def test_tensorrt_cannot_run_without_a_gpu_and_the_sentence_says_so(document: Report) -> None:
    if by_name(document, "gpu").get("gpu") is None:
        pytest.skip("this machine has a GPU")
    (gpu,) = document.sections["gpu"]
    engine = by_name(document, "engines")["tensorrt"]
    assert (gpu.state, engine.state) == ("no", "no")
    assert "no /dev/nvidia*" in gpu.says
    assert gpu.says in engine.says
    assert engine.remedy == gpu.remedy
    assert engine.facts["ran"] is False


def test_codecs_and_formats_were_tried_and_not_looked_up(document: Report) -> None:
    codecs = by_name(document, "opencv")
    decoded = codecs["videos"].facts["decodes"]
    assert {"h264", "hevc", "vp9", "mpeg4", "mjpeg"} <= set(decoded)
    assert set(decoded) | {name for name in codecs if name in samples()} == set(samples())
    assert by_name(document, "images")["images"].facts["decodes"] == ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]


def test_the_lines_say_what_the_document_says(marey, document: Report, tmp_path: Path) -> None:
    result = marey("doctor", XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "\x1b" not in result.stdout
    assert [line for line in lines if line in Section.__args__] == list(document.sections)  # type: ignore[attr-defined]
    marks = {"ok": "ok", "no": "no", "--": "info"}
    rows = [line for line in lines if line.startswith("  ") and line[2:4] in marks]
    checks = [check for section in document.sections.values() for check in section]
    assert [(marks[row[2:4]], row[6:].split("  ")[0]) for row in rows] == [(each.state, each.name) for each in checks]
    # One column for all that is said, and for the remedies below it.
    (column,) = {len(row) - len(row[6:].split("  ", 1)[1].lstrip()) for row in rows}
    remedies = [line for line in lines if line.strip().startswith("remedy: ")]
    assert [line[column:].removeprefix("remedy: ") for line in remedies] == [
        each.remedy for each in checks if each.remedy
    ]
    running = [check.name for check in document.sections["engines"] if check.state == "ok"]
    assert lines[-1] == (
        f"{len(running)} of 3 engines run here ({', '.join(running)}); marey serve takes {document.engine}."
    )
    assert f"{tmp_path}/marey/engines" in result.stdout


def test_packages_that_fail_or_crash_on_import_are_told_apart_and_the_rest_is_examined(marey, broken) -> None:
    path = broken(
        pycuda="raise ImportError('libcurand.so.10: cannot open shared object file')",
        tensorrt="raise RuntimeError('this is a placeholder')",
        tensorrt_rtx=CRASH,
        onnxruntime="raise RuntimeError('this CPU is too old')",
    )
    result = marey("doctor", "--json", path=path)
    assert result.returncode == 0, result.stderr
    report = Report.model_validate_json(result.stdout)
    flavours = by_name(report, "tensorrt")
    assert flavours["tensorrt"].says.endswith("does not import: RuntimeError: this is a placeholder")
    assert str(path / "tensorrt") in flavours["tensorrt"].says
    assert "it crashed (SIGSEGV)" in flavours["tensorrt_rtx"].says
    assert "libcurand.so.10" in report.sections["pycuda"][0].says
    assert "nvcc" in (report.sections["pycuda"][0].remedy or "")
    engines = by_name(report, "engines")
    assert engines["openvino"].state == "ok"
    assert engines["openvino"].facts["head_engine"] is None, "it runs the head by itself where onnxruntime cannot"
    assert (engines["onnxruntime"].state, engines["onnxruntime"].remedy) == (
        "no",
        "pip install --force-reinstall onnxruntime",
    )
    assert report.engine == "openvino"


def test_a_package_that_hangs_costs_its_time_and_no_more(broken, color_bundle, tmp_path: Path) -> None:
    path = broken(tensorrt=HANG, cv2=CRASH)
    code = "from service.doctor.examine import examine; print(examine(timeout_s=6).model_dump_json())"
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{path}:{ROOT}",
        "MAREY_BUNDLES": str(color_bundle.path),
        "HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    report = Report.model_validate_json(result.stdout)
    assert "it did not answer within 6 s" in by_name(report, "tensorrt")["tensorrt"].says
    assert by_name(report, "engines")["tensorrt"].state == "no"
    assert "it crashed (SIGSEGV)" in report.sections["opencv"][0].says
    assert "it crashed (SIGSEGV)" in report.sections["images"][0].says
    assert by_name(report, "engines")["onnxruntime"].facts["bundle"] == "color"
    assert report.ok


def test_where_no_engine_runs_the_exit_code_is_one(marey, color_bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(color_bundle.path, damaged)
    with (damaged / "head.onnx").open("ab") as file:
        file.write(b"!")
    result = marey("doctor", MAREY_BUNDLES=str(damaged))
    assert result.returncode == 1
    assert "changed or damaged" in result.stdout
    assert "remedy: copy it again" in result.stdout
    assert result.stdout.splitlines()[-1] == "No engine runs here: see the remedies above."


def test_settings_that_are_wrong_are_named_and_the_others_still_count(marey, color_bundle) -> None:
    result = marey(
        "doctor",
        "--json",
        MAREY_PORT="99999",
        MAREY_ENGIN="openvino",
        MAREY_REQUIRE_GPU="1",
        MAREY_ENGINE="onnxruntime",
        MAREY_BUNDLES=str(color_bundle.path),
        MAREY_ENGINE_CACHE="/dev/null/engines",
    )
    report = Report.model_validate_json(result.stdout)
    settings = by_name(report, "settings")
    assert settings["MAREY_PORT"].remedy == "unset MAREY_PORT"
    assert "'99999'" in settings["MAREY_PORT"].says
    assert "export MAREY_ENGINE=" in settings["MAREY_ENGIN"].remedy
    assert settings["MAREY_REQUIRE_GPU"].state == "info"
    assert [check.name for check in report.sections["bundles"]] == ["color"]
    assert report.sections["cache"][0].state == "no"
    assert "Not a directory" in report.sections["cache"][0].says
    assert report.engine == "onnxruntime"


@pytest.fixture(scope="module")
def gpu_machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with a stand-in GPU; see tests/standin/README.md."""
    pytest.importorskip("tensorrt_rtx", reason="the stand-ins need tensorrt-rtx, which is for x86-64 only")
    folder, standin = tmp_path_factory.mktemp("driver"), ROOT / "tests" / "standin"
    compiler = ["gcc", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden"]
    subprocess.run([*compiler, "-o", folder / "libcuda.so.1", *sorted((standin / "libcuda").glob("*.c"))], check=True)
    library = standin / "libnvml.c"
    subprocess.run(
        [*compiler[:-1], "-o", folder / "libnvidia-ml.so.1", library],
        check=True,
    )
    return {
        "LD_LIBRARY_PATH": str(folder),
        "STANDIN_GPUS": "2",
        "STANDIN_NVML_BUSES": "2,1",
        "MAREY_ENGINE_CACHE": str(folder / "engines"),
    }


def test_on_a_machine_with_gpus_tensorrt_is_built_and_runs(marey, gpu_machine, color_bundle) -> None:
    result = marey(
        "doctor", "--json", path=ROOT / "tests" / "standin", MAREY_BUNDLES=str(color_bundle.path), **gpu_machine
    )
    report = Report.model_validate_json(result.stdout)
    gpus = by_name(report, "gpu")
    # NVML's first GPU is at bus 2, where CUDA's second is.
    assert [(gpus[f"gpu {i}"].facts["cuda_ordinal"], gpus[f"gpu {i}"].facts["pci_bus_id"]) for i in (0, 1)] == [
        (1, "0000:02:00.0"),
        (0, "0000:01:00.0"),
    ]
    assert gpus["gpu 0"].facts["compute_capability"] == "9.0"
    assert gpus["driver"].facts["version"] == "590.12.01"
    assert report.sections["pycuda"][0].facts["devices"] == ["0000:01:00.0", "0000:02:00.0"]
    engine = by_name(report, "engines")["tensorrt"]
    assert engine.state == "ok", engine.says
    assert 0 <= engine.facts["golden_difference"] <= engine.facts["tolerance"]
    assert report.engine == "tensorrt"


def test_a_driver_that_is_too_old_for_tensorrt_is_told_before_anything_is_tried(
    marey, gpu_machine, color_bundle
) -> None:
    path = ROOT / "tests" / "standin"
    old = gpu_machine | {"STANDIN_DRIVER": "12020"}
    result = marey("doctor", "--json", path=path, MAREY_BUNDLES=str(color_bundle.path), **old)
    report = Report.model_validate_json(result.stdout)
    flavour = by_name(report, "tensorrt")["tensorrt_rtx"]
    assert "built for CUDA 13: the driver supports CUDA 12.2 at most" in flavour.says
    assert "580.65" in flavour.remedy
    assert flavour.says in by_name(report, "engines")["tensorrt"].says
    assert report.engine == "openvino"


def test_a_clip_network_is_found_and_runs(marey, tmp_path: Path) -> None:
    make_clip_bundle(tmp_path / "motion", frames=3)
    report = Report.model_validate_json(marey("doctor", "--json", MAREY_BUNDLES=str(tmp_path)).stdout)
    (bundle,) = report.sections["bundles"]
    assert (bundle.state, bundle.facts["network"]) == ("ok", "clip")
    engines = by_name(report, "engines")
    for name in ("openvino", "onnxruntime"):
        assert engines[name].facts["ran"] is True, engines[name].says
        assert (engines[name].facts["bundle"], engines[name].facts["frames"]) == ("motion", 3)
