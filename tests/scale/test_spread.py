"""How many replicas: as variables, flags and arguments say it, and what cannot be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import InvalidParameter
from service.scale.spread import Spread, everywhere, refuse_unless_shared
from service.settings import Settings


@pytest.mark.parametrize(
    ("said", "meant"), [("2", (2, 2)), (3, (3, 3)), ("1:4", (1, 4)), ("7:7", (7, 7)), ((1, 2), (1, 2))]
)
def test_replicas_are_a_number_or_a_range(said: Any, meant: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert Spread(ingress=said).ingress == meant
    if isinstance(said, str):
        monkeypatch.setenv("MAREY_RAY_ENGINES", said)
        assert Spread().engines == meant


@pytest.mark.parametrize("said", ["0", "3:1", "x", "1:", ":2", "-1", "1:2:3", "1.5", "", 0])
def test_what_is_no_range_is_refused_with_an_example(said: Any) -> None:
    with pytest.raises(ValidationError, match=r"such as 2|one replica at least"):
        Spread(ingress=said)


def test_cores_are_those_of_all_replicas_at_their_most() -> None:
    settings = Settings(threads=4, decode_workers=3)
    assert Spread(ingress="1:2", engines="1:5").cores(settings, bundles=2) == (2 + 1) * 3 + 2 * 5 * 4
    assert Spread(ingress="2", engines="1").cores(settings.model_copy(update={"max_jobs": 0}), bundles=1) == 2 * 3 + 4
    # Beside a GPU an engine needs one core, unless it is said otherwise.
    assert Spread(ingress="1", engines="1", engine_gpus=0.5).of_engine(settings) == 1
    assert Spread(engine_gpus=0.5, engine_cpus=2, ingress_cpus=0).of_engine(settings) == 2


@pytest.mark.parametrize(
    ("setting", "name"),
    [({"watch_s": 5}, "MAREY_WATCH_S"), ({"max_model_bytes": 2**30}, "MAREY_MAX_MODEL_BYTES"), ({"devices": (0,)}, "MAREY_DEVICES")],
)  # fmt: skip
def test_what_means_one_process_is_refused_by_its_name(setting: dict[str, Any], name: str) -> None:
    refuse_unless_shared(Settings())
    with pytest.raises(InvalidParameter, match=f"{name} = .* cannot be used with Ray; "):
        refuse_unless_shared(Settings(**setting))


def test_settings_mean_the_same_in_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(bundles=(Path("b"),), jobs=Path("~/jobs"), keys=Path("keys"), threads=8)
    same = everywhere(settings, engines=4)
    assert same.bundles == (tmp_path / "b",)
    assert same.jobs == Path.home() / "jobs"
    assert same.keys == tmp_path / "keys"
    assert same.threads == 8  # it was said
    assert everywhere(Settings(), engines=10**6).threads == 1
