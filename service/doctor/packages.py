"""The packages behind the engines: installed, importable, and made for the driver that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.doctor.child import NoAnswer
from service.doctor.gpu import OLDEST_DRIVER
from service.doctor.report import Check, Fact, info, no, ok
from service.engine.flavour import PACKAGES, Name
from service.engine.probe import OnnxRuntime, OpenVino, Package, PyCuda, installed

_TITLES: dict[str, str] = {str(name): title for name, title in PACKAGES.items()}
_GPU_EXTRA = "make gpu in a checkout of marey"
# PyCUDA has no wheels: what is missing shows only when it is compiled, or when it is imported elsewhere.
_PYCUDA = f"{_GPU_EXTRA}, with the CUDA toolkit installed and nvcc on PATH"


def tensorrt(
    answers: Mapping[Name, Package | NoAnswer],
    *,
    in_use: str | None,
    cuda: tuple[int, int] | None,
) -> list[Check]:
    """Both flavours; one of them is enough, so that the other may be missing. `cuda`: the latest that the driver supports."""
    return [_flavour(name, answer, in_use, cuda) for name, answer in answers.items()]


def _flavour(name: Name, answer: Package | NoAnswer, in_use: str | None, cuda: tuple[int, int] | None) -> Check:
    if isinstance(answer, NoAnswer):
        return _no_flavour(name, answer, in_use)
    title, distribution = _TITLES[name], name.replace("_", "-")
    facts: dict[str, Fact] = {"version": answer.version, "cuda": answer.cuda, "in_use": name == in_use}
    says = f"{title} {answer.version}, built for CUDA {answer.cuda or '(its distribution does not say which)'}"
    if answer.cuda is not None and cuda is not None and cuda[0] < answer.cuda:
        needs = f"{OLDEST_DRIVER[answer.cuda]} or newer" if answer.cuda in OLDEST_DRIVER else "a newer one"
        return no(
            name,
            f"{says}: the driver supports CUDA {cuda[0]}.{cuda[1]} at most",
            f"upgrade NVIDIA's driver ({needs}), or pip install {distribution}-cu{cuda[0]}",
            **facts,
        )
    if in_use is None:
        return no(name, f"{says}: too old for Marey", f"pip install --upgrade {distribution}", **facts)
    if name != in_use:
        return info(name, f"{says}; {_TITLES[in_use]} goes before it", **facts)
    return ok(name, says, **facts)


def _no_flavour(name: Name, answer: NoAnswer, in_use: str | None) -> Check:
    place = installed(name)
    title, distribution = _TITLES[name], name.replace("_", "-")
    facts: dict[str, Fact] = {"version": None, "cuda": None, "in_use": False}
    if place is not None:
        says = f"{title} is installed in {place} and does not import: {answer}"
        return no(name, says, f"pip install --force-reinstall {distribution}", **facts)
    if in_use is not None:
        return info(name, f"{title} is not installed, and {_TITLES[in_use]} stands in", **facts)
    remedy = _GPU_EXTRA if name == "tensorrt" else "pip install 'marey[gpu-rtx]'"
    return no(name, f"{title} is not installed", remedy, **facts)


def pycuda(answer: PyCuda | NoAnswer, *, gpu_remedy: str | None) -> list[Check]:
    """`gpu_remedy`: what brings the driver, where there is none; without a driver PyCUDA cannot be imported, however good."""
    if not isinstance(answer, NoAnswer):
        built, driver = ("{}.{}".format(*version) for version in (answer.built_for, answer.driver))
        facts: dict[str, Fact] = {
            "version": answer.version,
            "built_for": built,
            "driver": driver,
            "devices": [*answer.devices],
        }
        says = f"PyCUDA {answer.version}, compiled with CUDA {built}, GPUs that it sees: {len(answer.devices)}"
        if answer.built_for[0] > answer.driver[0]:
            older = f"{says}; the driver supports CUDA {driver} at most"
            return [
                no("pycuda", older, "upgrade NVIDIA's driver, or compile with an older CUDA toolkit: make gpu", **facts)
            ]
        return [ok("pycuda", says, **facts)]
    place = installed("pycuda")
    if place is None:
        return [no("pycuda", "PyCUDA is not installed; it has no wheels and is compiled on this machine", _PYCUDA, version=None)]  # fmt: skip
    says = f"PyCUDA is installed in {place} and its driver does not start: {answer}"
    if "libcuda" in str(answer) and gpu_remedy:
        return [no("pycuda", says, gpu_remedy, version=None)]
    remedy = (
        f"pip uninstall pycuda, then {_PYCUDA}: compiled elsewhere, or for another CUDA, it may not find its libraries"
    )
    return [no("pycuda", says, remedy, version=None)]


def openvino(answer: OpenVino | NoAnswer) -> list[Check]:
    again = "pip install --force-reinstall openvino"
    if isinstance(answer, NoAnswer):
        return [no("openvino", f"OpenVINO does not work: {answer}", again, version=None)]
    facts: dict[str, Fact] = {
        "version": answer.version,
        "devices": [*answer.devices],
        "cpu": answer.cpu,
        "capabilities": [*answer.capabilities],
    }
    release = answer.version.partition("-")[0]
    if "CPU" not in answer.devices:
        return [no("openvino", f"OpenVINO {release} has no CPU plug-in, only {_list(answer.devices)}", again, **facts)]
    floats = "bf16" if "BF16" in answer.capabilities else "fp32, for want of bf16 in this CPU"
    int8 = "int8 natively" if "INT8" in answer.capabilities else "no int8 of its own"
    return [ok("openvino", f"OpenVINO {release} on {answer.cpu}: {int8}, the float remainder in {floats}", **facts)]


def onnxruntime(answer: OnnxRuntime | NoAnswer) -> list[Check]:
    if isinstance(answer, NoAnswer):
        says = f"onnxruntime does not work: {answer}"
        return [no("onnxruntime", says, "pip install --force-reinstall onnxruntime", version=None)]
    short = [name.removesuffix("ExecutionProvider") for name in answer.providers]
    facts: dict[str, Fact] = {"version": answer.version, "providers": [*answer.providers]}
    return [ok("onnxruntime", f"onnxruntime {answer.version}, providers {_list(short)}", **facts)]


def _list(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
