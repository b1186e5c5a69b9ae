"""The whole examination: every section by itself, so that what is broken in one is told there and stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service import __version__
from service.doctor import engines, environment, gpu, machine, media, packages, storage
from service.doctor.child import NoAnswer, ask
from service.doctor.report import Check, Report, Section, no
from service.engine import probe
from service.engine.flavour import PACKAGES, Name
from service.nvml import Reading

T = TypeVar("T")

_TIMEOUT_S = 60.0
_AT_ONCE = 2  # questions; each is a process of its own


@dataclass(frozen=True, slots=True)
class Answers:
    """What the parts said that may crash or hang whoever asks them, or that they did not."""

    media: media.Tried | NoAnswer
    cuda: gpu.Cuda
    reading: Reading
    tensorrt: Mapping[Name, probe.Package | NoAnswer]
    in_use: str | None  # the flavour of TensorRT that the engine takes
    pycuda: probe.PyCuda | NoAnswer
    openvino: probe.OpenVino | NoAnswer
    onnxruntime: probe.OnnxRuntime | NoAnswer

    @property
    def ordinals(self) -> tuple[str, ...]:
        return () if isinstance(self.pycuda, NoAnswer) else self.pycuda.devices


class _Sections:
    """Filled one after the other; an unexpected exception becomes the sentence of the section that it struck."""

    def __init__(self) -> None:
        self.found: dict[Section, tuple[Check, ...]] = {}

    def add(self, name: Section, look: Callable[[], Iterable[Check]]) -> tuple[Check, ...]:
        try:
            self.found[name] = tuple(look())
        except Exception as error:  # noqa: BLE001  # the doctor must survive every part that is broken
            remedy = "report it, with the output of marey doctor --json"
            self.found[name] = (no(name, f"the examination itself failed here: {error!r}", remedy),)
        return self.found[name]


def examine(*, progress: Callable[[str], None] = lambda _: None, timeout_s: float = _TIMEOUT_S) -> Report:
    """Look at everything, then run each engine; `progress` is told what is under way, `timeout_s` bounds each question.

    Never raises for what it finds.
    """
    given = environment.given()
    settings = given.settings
    progress("packages, codecs and GPUs")
    answers = _gather(timeout_s)
    sections = _Sections()
    sections.add("settings", given.checks)
    sections.add("machine", lambda: machine.machine(threads=settings.threads))
    cards = sections.add(
        "gpu", lambda: gpu.gpus(answers.reading, cuda=answers.cuda, seen=gpu.seen(), ordinals=answers.ordinals)
    )
    driver_remedy = next((check.remedy for check in cards if check.state == "no"), None)
    flavours = sections.add(
        "tensorrt", lambda: packages.tensorrt(answers.tensorrt, in_use=answers.in_use, cuda=answers.cuda.version)
    )
    pycuda = sections.add("pycuda", lambda: packages.pycuda(answers.pycuda, gpu_remedy=driver_remedy))
    # NVML is for metrics, and of the flavours one is enough.
    needed = [check for check in cards if check.name != "nvml"]
    needed += [check for check in flavours if answers.in_use in (None, check.name)]
    parts = {
        "tensorrt": (*needed, *pycuda),
        "openvino": sections.add("openvino", lambda: packages.openvino(answers.openvino)),
        "onnxruntime": sections.add("onnxruntime", lambda: packages.onnxruntime(answers.onnxruntime)),
    }
    sections.add("opencv", lambda: media.opencv(answers.media))
    sections.add("images", lambda: media.images(answers.media))
    bundles = storage.Bundles([], ())

    def look_at_bundles() -> Iterable[Check]:
        nonlocal bundles
        bundles = storage.bundles(settings.bundles)
        return bundles.checks

    sections.add("bundles", look_at_bundles)
    sections.add("cache", lambda: storage.cache(settings.engine_cache))
    sections.add(
        "engines", lambda: engines.engines(bundles.servable, settings=settings, parts=parts, progress=progress)
    )
    ran = sections.found["engines"]
    return Report(
        marey=__version__,
        ok=any(check.state == "ok" for check in ran),
        engine=engines.taken(ran, settings=settings),
        sections=sections.found,
    )


def _gather(timeout_s: float) -> Answers:
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:

        def start(question: Callable[[], T]) -> Future[T | NoAnswer]:
            return pool.submit(_ask, question, timeout_s)

        tried = start(media.tried)
        cuda = start(gpu.cuda)
        reading = start(gpu.reading)
        tensorrt = {name: start(partial(probe.tensorrt, name)) for name in PACKAGES}
        in_use = start(probe.tensorrt_in_use)
        pycuda = start(probe.pycuda)
        openvino = start(probe.openvino)
        onnxruntime = start(probe.onnxruntime)
    return Answers(
        media=tried.result(),
        cuda=_or(cuda.result(), lambda trouble: gpu.Cuda(error=str(trouble))),
        reading=_or(reading.result(), lambda trouble: Reading(reason=f"NVML does not answer: {trouble}")),
        tensorrt={name: answer.result() for name, answer in tensorrt.items()},
        in_use=name if isinstance(name := in_use.result(), str) else None,
        pycuda=pycuda.result(),
        openvino=openvino.result(),
        onnxruntime=onnxruntime.result(),
    )


def _ask(question: Callable[[], T], timeout_s: float) -> T | NoAnswer:
    try:
        return ask(question, timeout_s=timeout_s)
    except NoAnswer as error:
        return error
    except Exception as error:  # noqa: BLE001  # an answer that cannot be read, say: as good as none
        return NoAnswer(repr(error))


def _or(answer: T | NoAnswer, instead: Callable[[NoAnswer], T]) -> T:
    return instead(answer) if isinstance(answer, NoAnswer) else answer
