"""What cannot be taken as it is, is refused in one sentence that names what stands in the way and the way out; nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.errors import ExportRefused
from models.export.exporter import export_model
from service.bundle.manifest import Input, Sampling
from tests.users.refused import REFUSALS, SIZE


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    refusal = REFUSALS[name]
    with pytest.raises(ExportRefused) as refused:
        export_model(
            refusal.build(), out=tmp_path / "bundle", name=name, version="1", labels=("a", "b", "c"),
            input=Input(height=SIZE, width=SIZE), sampling=Sampling(frames=4), **refusal.asked,
        )  # fmt: skip
    sentence = str(refused.value)
    assert re.search(refusal.sentence, sentence), sentence
    assert "\n" not in sentence
    assert not (tmp_path / "bundle").exists()
