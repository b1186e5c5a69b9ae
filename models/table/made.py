"""The entry of a bundle, from its manifest, its report and its graphs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import onnx

from models.export.half import widen
from models.judging.assess import read_report
from models.judging.report import Report
from models.provenance import run_again
from models.table.entry import Answers, Entry, Figures, Localisation, Quantized, Robustness, Source, Timing
from service.bundle.manifest import Frozen
from service.bundle.store import Bundle

Row = TypeVar("Row", bound=Frozen)
# The engine that is judged everywhere, so that rows can be compared.
_ENGINE = "openvino"
# More wrong answers than these are not kept: a report stays small.
_ANSWERS = 1200


def entry_of(bundle: Bundle) -> Entry:
    """What RESULTS.md tells of `bundle`. It need not have been judged, nor trained here."""
    manifest, report = bundle.manifest, read_report(bundle)
    made, training = report.get("recipe", {}), report.get("training", {})
    provenance = manifest.provenance
    split = _split(report)
    figures = _of(Figures, (row for row in report.get("accuracy", []) if row["split"] == split))
    random = "none" in training and provenance.weights_source is None  # what was never learned is right by chance only
    return Entry(
        id=manifest.name,
        base=made.get("base", provenance.recipe or manifest.name),
        overrides=made.get("overrides", ()),
        description=manifest.description,
        architecture=made.get("architecture"),
        data=Source(name=provenance.data, source=provenance.data_source, license=provenance.data_license),
        weights=Source(source=provenance.weights_source, license=provenance.weights_license),
        unit="clip" if "video" in manifest.tasks else "image",
        classes=len(manifest.labels),
        score=report.get("score", "accuracy"),
        parameters=training.get("parameters") or _values(bundle),
        trainable=training.get("trainable"),
        float_bytes=sum(manifest.artifacts[stage].bytes for stage in manifest.network.stages),
        int8_bytes=_int8_bytes(bundle),
        int8_share=_int8_share(bundle),
        no_int8=None if manifest.quantized else _why_not(report),
        figures=() if random else figures,
        quantized=None if random else _quantized(report),
        verdict=None if random else report.get("verdict", {}).get("sentence"),
        robustness=() if random else _of(Robustness, report.get("robustness", [])),
        localisation=() if random else _of(Localisation, report.get("localisation", [])),
        timing=_timing(report),
        training_seconds=training.get("seconds"),
        training_machine=training.get("machine"),
        not_trained=training.get("none"),
        command=_command(provenance.command or report.get("command")),
        packages=provenance.packages,
        answers=_answers(report.get("answers", {}).get(split)),
    )


def _of(kind: type[Row], rows: Iterable[Mapping[str, Any]]) -> tuple[Row, ...]:
    """What `kind` keeps of the rows of the engine that is judged everywhere."""
    fields = kind.model_fields
    return tuple(
        kind.model_validate({name: row[name] for name in fields if name in row})
        for row in rows
        if row["engine"] == _ENGINE
    )


def _split(report: Report) -> str:
    """The one that is reported on: test, where it was judged."""
    judged = [row["split"] for row in report.get("accuracy", [])]
    return "test" if "test" in judged or not judged else str(judged[0])


def _command(command: str | None) -> str | None:
    return run_again(command) if command is not None and command.startswith("marey-build run ") else command


def _timing(report: Report) -> Timing | None:
    rows = {row["precision"]: row for row in report.get("latency", []) if row["engine"] == _ENGINE}
    if "fp32" not in rows:
        return None
    whole = {precision: row["total_ms"] for precision, row in rows.items() if "total_ms" in row}
    if "fp32" not in whole:
        return None
    first = rows["fp32"]
    return Timing(
        float_ms=whole["fp32"],
        int8_ms=whole.get("int8"),
        frames=first["total_frames"],
        runs=first["runs"],
        threads=first["threads"],
        device=first["device"],
        load=first.get("load"),
    )


def _quantized(report: Report) -> Quantized | None:
    """Of a network whose INT8 was searched; those of before were not."""
    found, verdict = report.get("quantization", {}), report.get("verdict", {})
    if "methods" not in found:
        return None
    taken = next(row for row in found["plan"] if row["taken"])
    times = {row["precision"]: row for row in report.get("latency", []) if row["engine"] == _ENGINE}
    float_ms, int8_ms = (
        times.get(precision, {}).get("encoder_16_ms", times.get(precision, {}).get("clip_ms"))
        for precision in ("fp32", "int8")
    )
    return Quantized(
        split=found["trial"]["split"],
        clips=found["trial"]["clips"],
        method=found["taken"],
        kl=taken["kl"],
        plain_kl=found["methods"][0]["kl"],
        in_float=found["nodes_in_float"],
        eligible=found["nodes_eligible"],
        share=found["weights"]["ratio"],
        macs=found["macs"],
        seconds=found["seconds"],
        float_ms=float_ms,
        int8_ms=int8_ms,
        **{name: verdict.get(name) for name in ("loss", "agreement", "agreement_n", "accepted")},
    )


def _why_not(report: Report) -> str:
    return str(report.get("quantization", {}).get("refused", "it was not asked for"))


def _answers(found: Mapping[str, Any] | None) -> Answers | None:
    if found is None or sum(len(each) for each in found["wrong"].values()) > _ANSWERS:
        return None
    wrong = {
        name.removeprefix(f"{_ENGINE} "): each for name, each in found["wrong"].items() if name.startswith(_ENGINE)
    }
    return Answers.model_validate({**found, "wrong": wrong})


def _int8_bytes(bundle: Bundle) -> int | None:
    manifest = bundle.manifest
    if not manifest.quantized:
        return None
    return sum(manifest.artifacts[manifest.role(stage, "int8")].bytes for stage in manifest.network.stages)


def _values(bundle: Bundle) -> int:
    """How many weights the float graphs hold; BatchNorm is folded there."""
    return sum(
        _size(tensor)
        for stage in bundle.manifest.network.stages
        for tensor in onnx.load_from_string(bundle.file(stage).read_bytes()).graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    )


def _int8_share(bundle: Bundle) -> float | None:
    """Of the weights, the share that is held in 8 bits."""
    manifest = bundle.manifest
    if not manifest.quantized:
        return None
    graph = widen(
        onnx.load_from_string(bundle.file(manifest.role(manifest.network.stages[0], "int8")).read_bytes())
    ).graph
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    read = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"} & set(constants)
    # A first kernel may be padded to four channels: it then holds more than the float one.
    return round(min(1.0, sum(_size(constants[name]) for name in read) / _values(bundle)), 4)


def _size(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims))
