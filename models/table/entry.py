"""What is kept of a judged bundle for RESULTS.md: `models/results/ID/report.json`, small enough to be committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from models.errors import DataError
from service.bundle.manifest import Frozen, Precision

REPORT = "report.json"
FLOOR = "floor.json"
Read = TypeVar("Read", bound=Frozen)


class Source(Frozen):
    """Where data or weights come from, and under which licence."""

    name: str | None = None
    source: str | None = None
    license: str | None = None


class Figures(Frozen):
    """Of one precision on the split, with 95 % intervals."""

    engine: str
    precision: Precision
    split: str
    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    agreement: float | None = None


class Robustness(Frozen):
    """The accuracy on images that were `changed`, and how far it is from that on the same images as they are."""

    precision: Precision
    split: str
    n: int
    changed: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]


class Timing(Frozen):
    """Medians in ms of all networks for one image or clip of `frames`; both precisions took turns. `load`: processes a core, before."""

    float_ms: float
    int8_ms: float | None = None
    frames: int
    runs: int
    threads: int
    device: str
    load: float | None = None


class Localisation(Frozen):
    """How well it says where, by the network alone or by what follows it (`by`): see models.judging.localise."""

    precision: Precision
    split: str
    by: str
    n: int
    pixel_auc: float
    pixel_auc_interval: tuple[float, float]
    iou: float
    iou_interval: tuple[float, float]
    iou_by_label: dict[str, float] = Field(default_factory=dict)
    image_auc: float | None = None
    image_auc_interval: tuple[float, float] | None = None


class Answers(Frozen):
    """What the bundle said wrong on the split: pairs of a sample's place and the class said. `order` tells one split from another."""

    n: int
    order: str
    wrong: dict[str, tuple[tuple[int, int], ...]]


class Quantized(Frozen):
    """How INT8 was chosen on `clips` of `split`, and what the gate found; `kl` in nats, `plain_kl` that of MinMax ranges without repairs.

    `share`: bytes of the quantized network's weights over 4 for each; `float_ms`, `int8_ms`: that network, of 16 frames or one clip.
    """

    split: str
    clips: int
    method: str
    kl: float
    plain_kl: float
    in_float: int
    eligible: int
    share: float
    macs: int
    seconds: float
    float_ms: float | None = None
    int8_ms: float | None = None
    loss: float | None = None
    agreement: float | None = None
    agreement_n: int | None = None
    accepted: bool | None = None


class Floor(Frozen):
    """What `marey-build floor` wrote: the plain floor on one split, as its `answers`."""

    data: str
    split: str
    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    answers: Answers
    command: str


class Entry(Frozen):
    """A row. `base` and `overrides`: the recipe that ships, and what was set otherwise; `not_trained`: why nothing was trained here."""

    id: str
    base: str
    overrides: tuple[str, ...] = ()
    description: str
    architecture: str | None = None
    data: Source
    weights: Source = Source()
    unit: Literal["image", "clip"]
    classes: int
    score: Literal["accuracy", "auc"] = "accuracy"
    parameters: int
    trainable: int | None = None
    float_bytes: int
    int8_bytes: int | None = None
    int8_share: float | None = None
    no_int8: str | None = None
    figures: tuple[Figures, ...] = ()
    verdict: str | None = None
    quantized: Quantized | None = None
    robustness: tuple[Robustness, ...] = ()
    localisation: tuple[Localisation, ...] = ()
    timing: Timing | None = None
    training_seconds: float | None = None
    training_machine: str | None = None
    not_trained: str | None = None
    command: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    answers: Answers | None = None

    @property
    def without_weights(self) -> bool:
        """Whether its weights are random: such a row shows size and speed, and no accuracy."""
        return self.not_trained is not None and self.weights.source is None

    def figure(self, precision: Precision) -> Figures | None:
        """Those of `precision`, or None."""
        return next((each for each in self.figures if each.precision == precision), None)


def write_entry(folder: Path, entry: Entry) -> Path:
    """Write `folder`/ID/report.json, one field a line, so that a change can be read; returns its path."""
    return _write(folder / entry.id / REPORT, entry)


def write_floor(folder: Path, name: str, floor: Floor) -> Path:
    """Write `folder`/`name`/floor.json in the same way."""
    return _write(folder / name / FLOOR, floor)


def _write(file: Path, value: Frozen) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = value.model_dump(mode="json", exclude_none=True)
    lines = [f" {json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in content.items()]
    part = file.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(file)
    return file


def read_entries(folder: Path) -> tuple[Entry, ...]:
    """Those below `folder`, by id; raises DataError for a file that is none."""
    entries = []
    for file in sorted(folder.glob(f"*/{REPORT}")):
        entry = _read(file, Entry, by="marey-build results --from")
        if entry.id != file.parent.name:
            raise DataError(f"{file} is of {entry.id}; a report lies in the folder of its id")
        entries.append(entry)
    return tuple(entries)


def read_floors(folder: Path) -> tuple[Floor, ...]:
    """Those below `folder`, in the order of their names; raises DataError for a file that is none."""
    return tuple(_read(file, Floor, by="marey-build floor") for file in sorted(folder.glob(f"*/{FLOOR}")))


def _read(file: Path, kind: type[Read], *, by: str) -> Read:
    """`by`: the command that writes such files."""
    try:
        return kind.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{file}: {where}: {first['msg']}; write it again with {by}") from None
    except ValueError as error:
        raise DataError(f"{file} is no JSON ({error}); write it again with {by}") from None
