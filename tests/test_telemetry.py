"""Metrics as Prometheus reads them: parsed with its own parser, bounded in their labels, and quick to count."""

from __future__ import annotations

import random
import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.collectors import ModelReading
from service.telemetry import MAX_LABELS, OTHER, Telemetry, rendered, together


def samples(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(telemetry.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return samples(telemetry).get((name, frozenset(labels.items())))


def answer(telemetry: Telemetry, label: int, *, model: str = "m", probability: float = 0.8) -> None:
    telemetry.answered(model, "1", class_id=label, label=f"class {label}", probability=probability)


def test_requests_are_counted_by_route_status_and_code_and_timed_unless_they_have_no_end() -> None:
    telemetry = Telemetry()
    for code in ("ok", "ok", "overloaded"):
        telemetry.request(route="/r", status=200 if code == "ok" else 429, code=code, seconds=0.003)
    telemetry.request(route="/stream", status=101, code="ok", seconds=None)
    assert value(telemetry, "marey_requests_total", route="/r", status="200", code="ok") == 2
    assert value(telemetry, "marey_requests_total", route="/r", status="429", code="overloaded") == 1
    assert value(telemetry, "marey_request_seconds_bucket", route="/r", le="0.0025") == 0
    assert value(telemetry, "marey_request_seconds_bucket", route="/r", le="0.005") == 3
    assert value(telemetry, "marey_requests_total", route="/stream", status="101", code="ok") == 1
    assert value(telemetry, "marey_request_seconds_count", route="/stream") is None


def test_answers_are_counted_by_class_up_to_a_bound() -> None:
    telemetry = Telemetry()
    for label in range(MAX_LABELS + 30):
        answer(telemetry, label)
    answer(telemetry, 3)
    found = {
        dict(labels)["label"]: each
        for (name, labels), each in samples(telemetry).items()
        if name == "marey_answers_total"
    }
    assert len(found) == MAX_LABELS + 1
    assert (found["class 3"], found[OTHER]) == (2, 30)
    for label in range(10):
        answer(telemetry, 1000 + label, model="n")
    assert value(telemetry, "marey_answers_total", model="n", version="1", label="class 1003") == 1, "each model's own"
    assert value(telemetry, "marey_answer_probability_bucket", model="n", version="1", le="0.8") == 10


def test_drift_is_silent_at_first_and_then_says_what_has_changed() -> None:
    telemetry, chance = Telemetry(), random.Random(1)
    for _ in range(1500):
        answer(telemetry, chance.randrange(4), probability=chance.random())
    assert value(telemetry, "marey_drift_psi", model="m", version="1", of="class") is None
    for _ in range(500):
        answer(telemetry, chance.randrange(4), probability=chance.random())
    assert value(telemetry, "marey_drift_psi", model="m", version="1", of="class") == pytest.approx(0, abs=0.1)
    for _ in range(1000):
        answer(telemetry, 0, probability=chance.random())
    assert value(telemetry, "marey_drift_psi", model="m", version="1", of="class") > 1  # type: ignore[operator]
    assert value(telemetry, "marey_drift_psi", model="m", version="1", of="probability") < 0.1  # type: ignore[operator]


def test_what_was_counted_of_a_model_leaves_with_it() -> None:
    telemetry = Telemetry()
    served = [ModelReading(name, "1", "onnxruntime", "fp32", 1, 0, 0, 0) for name in ("m", "n")]
    telemetry.watch_models(lambda: served)
    for name in ("m", "n"):
        telemetry.stages(name, {"encode": 5.0})
        answer(telemetry, 1, model=name)
    assert value(telemetry, "marey_stage_seconds_count", model="n", stage="encode") == 1
    served.pop()
    telemetry.render()
    assert not [labels for _, labels in samples(telemetry) if ("model", "n") in labels]
    telemetry.stages("n", {"encode": 5.0})
    served.append(ModelReading("n", "1", "onnxruntime", "fp32", 1, 0, 0, 0))
    assert value(telemetry, "marey_stage_seconds_count", model="n", stage="encode") == 1, "it begins anew"


def test_how_far_inputs_are_is_told_of_those_models_that_know_and_leaves_with_them() -> None:
    telemetry = Telemetry()
    knows = ModelReading("m", "1", "openvino", "int8", 1, 0, 0, 0, {"brightness": (0.3, 0.5), "contrast": (0.1, 0.0)})
    served = [knows, ModelReading("n", "1", "openvino", "int8", 1, 0, 0, 0)]
    telemetry.watch_models(lambda: served)
    assert value(telemetry, "marey_input_drift_psi", model="m", version="1", of="brightness") == 0.3
    assert value(telemetry, "marey_input_drift_psi", model="m", version="1", of="contrast") == 0.1
    assert value(telemetry, "marey_input_outside_ratio", model="m", version="1", of="brightness") == 0.5
    assert not [name for name, labels in samples(telemetry) if "input" in name and ("model", "n") in labels]
    served.pop(0)
    assert not [name for name, _ in samples(telemetry) if "input" in name]


def test_counts_that_are_read_are_counters_and_the_others_gauges() -> None:
    telemetry = Telemetry()
    telemetry.watch_count("marey_x", "X.", lambda: 3)
    telemetry.watch("marey_y", "Y.", lambda: 4)
    assert value(telemetry, "marey_x_total") == 3
    assert value(telemetry, "marey_y") == 4
    assert b"# TYPE marey_x_total counter" in telemetry.render()


def test_a_request_is_counted_in_a_few_microseconds() -> None:
    """Refusals come by the thousands a second; found by their labels each time, they would cost three times as much."""
    telemetry, fastest = Telemetry(), float("inf")
    for _ in range(5):
        began = time.thread_time()
        for _ in range(2000):
            telemetry.request(route="/classify/image", status=429, code="overloaded", seconds=0.001)
        fastest = min(fastest, (time.thread_time() - began) / 2000)
    assert fastest < 20e-6


def test_names_say_their_unit_and_are_those_that_dashboards_know(served) -> None:  # type: ignore[no-untyped-def]
    text = served.client.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert all(name.startswith("marey_") for name in names)
    assert names >= {
        "marey_requests_total",
        "marey_request_seconds",
        "marey_stage_seconds",
        "marey_batch_rows",
        "marey_device_seconds_total",
        "marey_refusals_total",
        "marey_queue_rows",
        "marey_queue_wait_seconds",
        "marey_queue_wait_limit_seconds",
        "marey_requests_active",
        "marey_held_bytes",
        "marey_spool_bytes",
        "marey_spool_limit_bytes",
        "marey_streams_active",
        "marey_jobs",
        "marey_decode_busy",
        "marey_decode_waiting",
        "marey_decode_replaced_total",
        "marey_model_info",
        "marey_answers_total",
        "marey_answer_probability",
        "marey_drift_psi",
        "marey_input_drift_psi",
        "marey_input_outside_ratio",
        "marey_ready",
    }


def test_what_several_replicas_tell_is_one_exposition_in_which_each_has_its_name() -> None:
    one, other = Telemetry(), Telemetry()
    for telemetry, count in ((one, 2), (other, 3)):
        telemetry.watch("marey_spool_bytes", "Uploads.", lambda count=count: count)
        for _ in range(count):
            telemetry.request(route="/a", status=200, code="ok", seconds=0.01)
    text = rendered(together({"one": one.read(), "other": other.read()})).decode()
    for replica, count in (("one", 2), ("other", 3)):
        assert f'marey_requests_total{{code="ok",replica="{replica}",route="/a",status="200"}} {count:.1f}\n' in text
        assert f'marey_request_seconds_count{{replica="{replica}",route="/a"}} {count:.1f}\n' in text
        assert f'marey_spool_bytes{{replica="{replica}"}} {count:.1f}\n' in text
    assert text.count("# TYPE marey_requests_total counter") == 1
    assert "replica" not in one.render().decode()
