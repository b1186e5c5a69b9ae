"""Whatever happens to who is asked, who asks gets an answer, or a clause that says what happened."""

from __future__ import annotations

import ctypes
import os
import time
from functools import partial
from pathlib import Path

import pytest

from service.doctor.child import NoAnswer, ask
from service.engine.flavour import load_flavour


def test_an_answer_comes_back_as_it_was_given() -> None:
    assert ask(partial(divmod, 7, 2), timeout_s=30) == (3, 1)


def test_what_is_printed_on_the_way_does_not_disturb_the_answer() -> None:
    assert ask(partial(os.system, "echo noise"), timeout_s=30) == 0


def test_the_child_finds_modules_where_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(tmp_path)
    assert ask(__import__("only_here").answer, timeout_s=30) == 42


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (partial(ctypes.string_at, 0), "it crashed (SIGSEGV)"),
        (partial(os._exit, 3), "it ended with exit code 3"),
        (partial(int, "seven"), "ValueError: invalid literal for int() with base 10: 'seven'"),
        (partial(time.sleep, 60), "it did not answer within 2 s"),
    ],
)
def test_what_happened_instead_is_said(question: object, says: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        ask(question, timeout_s=2)  # type: ignore[arg-type]
    assert str(caught.value) == says


def test_an_error_of_ours_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('torn')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NoAnswer, match=r"^TensorRT does not import \(torn\)"):
        ask(load_flavour, timeout_s=30)
