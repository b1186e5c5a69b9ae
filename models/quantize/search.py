"""The INT8 network that is nearest to float on a trial: which ranges, which repairs, and the fewest nodes in float that keep its answers.

Of those whose answers hold, the one whose probabilities diverge least is chosen: that tells networks apart on clips so few that their accuracies are equal.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from models.export.half import widen
from models.export.report.cost import graph_cost
from models.quantize.observe import Observed, observe
from models.quantize.qdq import chosen_nodes, place, quantized_tensors, with_thresholds
from models.quantize.recurrent import weights_only
from models.quantize.repair import bias_corrected, equalized
from models.quantize.thresholds import METHODS
from models.quantize.trial import Fidelity, Reference, Trial

# Of the clips, so many must get the class that float names.
MIN_AGREEMENT = 0.95
# A repair is kept where it takes so much of the divergence away: less is within what another trial would change.
_HELPS = 0.95
# Of the nodes, so many may stay in float; a network that needs more is served in float.
_MOST = 0.5
# Clips that each node is tried on alone, frames of each clip, and the multiply-accumulates that they may cost in all.
_ALONE_CLIPS, _ALONE_FRAMES, _ALONE_MACS = 32, 4, 2.5e10
_FEWEST = 8

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network is quantized: `method` of its ranges, repairs, and the nodes in `floats`, which the search keeps in float besides the skipped."""

    method: str = "MinMax"
    equalized: bool = False
    bias_corrected: bool = False
    floats: tuple[str, ...] = ()

    def __str__(self) -> str:
        repairs = (("equalized", self.equalized), ("biases corrected", self.bias_corrected))
        return ", ".join([self.method, *(name for name, done in repairs if done)])


@dataclass(frozen=True, slots=True)
class Search:
    """What was found: the `quantized` network, its `plan`, whether it `holds` on the trial, and the tables of all that was tried.

    `floats`: the float network that it was made from, repaired where the plan says so.
    """

    quantized: onnx.ModelProto
    floats: onnx.ModelProto
    plan: Plan
    holds: bool
    tables: Row = field(default_factory=dict)


def search(
    model: onnx.ModelProto,
    head: bytes | None,
    *,
    rows: NDArray[np.uint8],
    trial: Trial,
    skip: Sequence[str] = (),
    max_drop: float,
    known: Row | None = None,
) -> Search:
    """Quantize `model`, the encoder before `head` or a clip network, with ranges from `rows` as `quantize_network` takes them.

    Its answers hold where it loses at most `max_drop` of accuracy, one clip at least, and names the class of float for 95 % of the trial.
    `known`: the table "sensitivity" of an earlier search, which is not made again from the very same. Raises ExportRefused.
    """
    return _Searching(model, head, rows=rows, trial=trial, skip=skip, max_drop=max_drop, known=known or {}).found()


@dataclass(eq=False)
class _Base:
    """A float network, repaired or not, with what was observed in it, and its INT8 one at the ranges of a method."""

    wide: onnx.ModelProto
    observed: Mapping[str, Observed]
    chosen: tuple[str, ...]
    _found: dict[str, dict[str, float]] = field(default_factory=dict)

    def thresholds(self, method: str) -> dict[str, float]:
        if method not in self._found:
            self._found[method] = {name: METHODS[method](each) for name, each in self.observed.items()}
        return self._found[method]

    def place(self, plan: Plan) -> onnx.ModelProto:
        chosen = [name for name in self.chosen if name not in plan.floats]
        placed = place(self.wide, self.thresholds(plan.method), chosen)
        return bias_corrected(placed, self.wide, self.observed) if plan.bias_corrected else placed


class _Searching:
    def __init__(
        self,
        model: onnx.ModelProto,
        head: bytes | None,
        *,
        rows: NDArray[np.uint8],
        trial: Trial,
        skip: Sequence[str],
        max_drop: float,
        known: Row,
    ) -> None:
        self._began = time.monotonic()
        self._rows, self._head = rows, head
        self._plain = self._observed(widen(model), skip)
        self._floats = self._plain.wide.SerializeToString()
        self._reference = Reference(self._floats, head, trial)
        self._allowed = max(max_drop, 1 / len(trial.clips))
        self._skip, self._known = skip, known

    def found(self) -> Search:
        methods = self._methods()
        plan, fidelity = self._best(methods)
        base = self._plain
        for repaired, better in self._repairs(plan):
            found = self._reference.compare(repaired.place(better))
            methods.append((better, found))
            gains = self._holds(found) - self._holds(fidelity)
            if gains > 0 or (gains == 0 and found.kl < _HELPS * fidelity.kl):
                base, plan, fidelity = repaired, better, found
        alone = self._alone(base, plan)
        plans = [(plan, fidelity)]
        if not self._holds(fidelity):
            plans += self._fewest(base, plan, [row["node"] for row in alone["rows"]])
        holding = [each for each in plans if self._holds(each[1])]
        plan, fidelity = min(holding, key=lambda each: len(each[0].floats)) if holding else plans[0]
        taken, reference = plan, self._reference
        recurrent = None if self._head is None else weights_only(self._head, reference)
        return Search(
            base.place(plan),
            base.wide,
            plan,
            bool(holding),
            {
                "trial": {
                    "split": reference.trial.split,
                    "clips": len(reference.trial.clips),
                    "frames": reference.trial.frames,
                    "accuracy": reference.accuracy,
                    "allowed_drop": self._allowed,
                },
                "methods": [
                    {
                        "method": each.method,
                        "equalized": each.equalized,
                        "bias_corrected": each.bias_corrected,
                        **asdict(found),
                        "taken": (each.method, each.equalized, each.bias_corrected)
                        == (taken.method, taken.equalized, taken.bias_corrected),
                    }
                    for each, found in methods
                ],
                "sensitivity": alone,
                "plan": [
                    {
                        "float_nodes": list(each.floats),
                        **asdict(found),
                        "float_frames_per_s": reference.frames_per_s,
                        "taken": each is taken,
                    }
                    for each, found in plans
                ],
                **({"recurrent": recurrent} if recurrent else {}),
                "nodes_in_float": len(plan.floats) + len(self._skipped()),
                "nodes_eligible": len(chosen_nodes(self._plain.wide.graph)),
                "holds": bool(holding),
                "taken": str(plan),
                "macs": self._macs(),
                "seconds": round(time.monotonic() - self._began, 1),
            },
        )

    def _observed(self, wide: onnx.ModelProto, skip: Sequence[str]) -> _Base:
        chosen = chosen_nodes(wide.graph, skip)
        return _Base(wide, observe(wide, self._rows, quantized_tensors(wide.graph, chosen)), chosen)

    def _methods(self) -> list[tuple[Plan, Fidelity]]:
        """Each method of ranges by itself: the nodes are the same, and only scales differ."""
        placed = self._plain.place(Plan())
        return [
            (Plan(method), self._reference.compare(with_thresholds(placed, self._plain.thresholds(method))))
            for method in tqdm(METHODS, desc="ranges", disable=None)
        ]

    def _best(self, tried: Sequence[tuple[Plan, Fidelity]]) -> tuple[Plan, Fidelity]:
        """The nearest to float of those whose answers hold; of all, where none does."""
        return min(tried, key=lambda each: (not self._holds(each[1]), each[1].kl))

    def _repairs(self, plan: Plan) -> list[tuple[_Base, Plan]]:
        """What may be better than `plan`: channels made alike, biases corrected, and both."""
        changed, pairs = equalized(self._plain.wide, self._plain.observed)
        tried = [(self._plain, Plan(plan.method, bias_corrected=True))]
        if pairs:
            alike = self._observed(changed, self._skip)
            tried += [
                (alike, Plan(plan.method, equalized=True)),
                (alike, Plan(plan.method, equalized=True, bias_corrected=True)),
            ]
        return tried

    def _alone(self, base: _Base, plan: Plan) -> Row:
        """What each node costs that alone is INT8, the worst first."""
        thresholds = base.thresholds(plan.method)
        trial = self._reference.trial.thinned(clips=self._clips_alone(), frames=self._frames_alone())
        made_from = repr((str(plan), base.chosen, sorted(thresholds.items())))
        key = _digest(self._floats, self._head or b"", made_from.encode(), *trial.clips)
        if self._known.get("key") == key:
            return self._known
        reference = Reference(self._floats, self._head, trial)
        kinds = {node.name: node.op_type for node in base.wide.graph.node}
        found = [
            (name, reference.compare(place(base.wide, thresholds, [name]), exact=True))
            for name in tqdm(base.chosen, desc="each layer alone", disable=None)
        ]
        rows = [
            {
                "node": name,
                "kind": kinds[name],
                "kl": each.kl,
                "feature_cosine": each.feature_cosine,
                "top1_agreement": each.top1_agreement,
            }
            for name, each in sorted(found, key=lambda each: -each[1].kl)
        ]
        return {"split": trial.split, "clips": len(trial.clips), "frames": trial.frames, "rows": rows, "key": key}

    def _frames_alone(self) -> int | None:
        """Of a head that takes clips of any length, a few frames of each show as much; others take no fewer."""
        return _ALONE_FRAMES if self._head is not None and not self._fixed() else None

    def _fixed(self) -> bool:
        assert self._head is not None
        head = onnx.load_from_string(self._head)
        return not head.graph.input[0].type.tensor_type.shape.dim[1].dim_param

    def _clips_alone(self) -> int:
        """As many as a minute or two allow: of a network ten times as large a tenth, and never fewer than eight."""
        frames = 1 if self._head is None else min(_ALONE_FRAMES, max(map(len, self._reference.trial.clips)))
        return int(np.clip(_ALONE_MACS / max(self._macs() * frames, 1), _FEWEST, _ALONE_CLIPS))

    def _macs(self) -> int:
        """Multiply-accumulates of a frame, or of a clip."""
        frames = self._rows.shape[1] if self._rows.ndim == 5 else 1
        return graph_cost(self._plain.wide, sizes={"N": 1, "B": 1, "T": frames}).macs

    def _fewest(self, base: _Base, plan: Plan, order: Sequence[str]) -> list[tuple[Plan, Fidelity]]:
        """More and more of the costliest nodes in float until the answers hold, then as few as still hold; all that was tried."""
        tried: list[tuple[Plan, Fidelity]] = []
        most = min(int(_MOST * len(order)), len(order) - 1)

        def holds(count: int) -> bool:
            each = Plan(plan.method, plan.equalized, plan.bias_corrected, tuple(order[:count]))
            found = self._reference.compare(base.place(each))
            tried.append((each, found))
            return self._holds(found)

        below, count = 0, min(1, most)
        while count > below and not holds(count):
            below, count = count, min(max(count + 1, round(1.5 * count)), most)
        while count - below > 1:
            middle = (below + count) // 2
            below, count = (below, middle) if holds(middle) else (middle, count)
        return tried

    def _holds(self, found: Fidelity) -> bool:
        return found.drop <= self._allowed + 1e-9 and found.top1_agreement >= MIN_AGREEMENT

    def _skipped(self) -> set[str]:
        return set(chosen_nodes(self._plain.wide.graph)) - set(self._plain.chosen)


def _digest(*parts: bytes | NDArray[np.uint8]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.tobytes() if isinstance(part, np.ndarray) else part)
        total.update(b"\0")
    return total.hexdigest()
