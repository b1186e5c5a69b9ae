"""What is said of single classes, with n and interval, and of how many it is not said."""

from __future__ import annotations

import numpy as np
import pytest

from models.judging.metrics import wilson
from models.judging.per_class import LISTED, by_class, class_lines


def answers(named: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[named]


TRUTH = np.array([0, 0, 0, 0, 1, 1])
FLOAT, INT8 = answers([0, 0, 0, 1, 1, 1], 3), answers([0, 0, 2, 1, 1, 1], 3)


def test_each_class_that_occurs_has_its_n_and_its_interval_for_float_and_int8() -> None:
    found = by_class(TRUTH, FLOAT, INT8, labels=("ape", "bee", "cat"))
    ape, bee = found["classes"]
    assert (ape["label"], ape["n"], ape["float"]["right"], ape["int8"]["right"]) == ("ape", 4, 3, 2)
    assert (bee["label"], bee["n"], bee["float"]["right"], bee["int8"]["right"]) == ("bee", 2, 2, 2)
    assert ape["float"]["interval"] == pytest.approx(wilson(3, 4), abs=1e-4)
    assert ape["int8"]["interval"] == pytest.approx(wilson(2, 4), abs=1e-4)
    assert (found["held"], found["left_out"], found["smallest"], found["largest"]) == (2, 0, 2, 4)
    text = "\n".join(class_lines(found, split="test"))
    assert "| 3 = 75.0% [30.1%, 95.4%]   | 2 = 50.0% [15.0%, 85.0%]   | -1 " in text
    assert "n is small: 2 to 4 a class on test. One sample more or less is up to 50% of its class" in text


def test_of_many_classes_only_those_that_differ_are_listed_losses_first_and_the_others_counted() -> None:
    classes = LISTED + 10
    truth = np.arange(classes)
    float_ = truth.copy()
    int8 = truth.copy()
    float_[[3, 5]] = 0
    int8[[3, 7]] = 0
    found = by_class(
        truth, answers(list(float_), classes), answers(list(int8), classes), labels=[f"c{each}" for each in truth]
    )
    assert [row["label"] for row in found["classes"]] == ["c7", "c5"], "c3 is wrong in both"
    assert found["left_out"] == classes - 2
    text = "\n".join(class_lines(found, split="test"))
    assert f"Left out: {classes - 2} of {classes} classes, on which float and INT8 are right equally often." in text


def test_of_many_that_differ_so_many_are_listed_and_the_text_does_not_call_the_others_equal() -> None:
    classes = LISTED + 10
    truth = np.arange(classes)
    found = by_class(
        truth, answers(list(truth), classes), answers([0] * classes, classes), labels=[f"c{each}" for each in truth]
    )
    assert len(found["classes"]) == LISTED
    assert "right equally often or differ less." in "\n".join(class_lines(found, split="test"))


def test_without_int8_there_is_one_column_and_of_many_classes_the_worst_are_listed() -> None:
    found = by_class(TRUTH, FLOAT, None, labels=("ape", "bee", "cat"))
    assert "INT8" not in "\n".join(class_lines(found, split="test"))
    classes = LISTED + 10
    named = np.arange(classes)
    named[-1] = 0
    found = by_class(
        np.arange(classes), answers(list(named), classes), None, labels=[str(each) for each in range(classes)]
    )
    assert found["classes"][0]["label"] == str(classes - 1)
    assert (len(found["classes"]), found["left_out"]) == (LISTED, 10)
    assert "Left out: 10 of 40 classes, which are recognised more often." in "\n".join(class_lines(found, split="val"))


def test_a_label_may_hold_what_ends_a_column() -> None:
    found = by_class(TRUTH, FLOAT, INT8, labels=("a|b", "bee", "cat"))
    assert "| a\\|b " in "\n".join(class_lines(found, split="test"))
