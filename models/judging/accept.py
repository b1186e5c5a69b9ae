"""The accuracy gate: an INT8 encoder is accepted when it loses no more than was allowed, and is refused otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from models.judging.judge import Judged, Runner
from models.judging.metrics import agreement, figures
from models.quantize import MIN_AGREEMENT


@dataclass(frozen=True, slots=True)
class Verdict:
    """`loss`: accuracy of float minus that of INT8 on the evaluation split; `agreement`: same top-1, on every clip judged."""

    split: str
    n: int
    loss: float
    allowed_loss: float
    agreement: float
    agreement_n: int
    agreement_interval: tuple[float, float]

    @property
    def accepted(self) -> bool:
        return self.loss <= self.allowed_loss + 1e-9 and self.agreement >= MIN_AGREEMENT

    def __str__(self) -> str:
        low, high = self.agreement_interval
        return (
            f"INT8 {'accepted' if self.accepted else 'refused'}: accuracy {0 - self.loss:+.1%} against float on {self.split} "
            f"(n={self.n}, allowed {0 - self.allowed_loss:+.1%}); same top-1 on {self.agreement:.1%} of {self.agreement_n} "
            f"clips [{low:.1%}, {high:.1%}] (at least {MIN_AGREEMENT:.0%})"
        )


def accept(judged: Judged, *, split: str, max_drop: float) -> Verdict:
    """Compare OpenVINO's INT8 with its fp32. A loss of one single clip is always allowed: less cannot be measured."""
    float_, int8 = Runner("openvino", "fp32"), Runner("openvino", "int8")
    part = judged.part(split)
    ours = {runner: figures(part.probabilities[runner], part.truth) for runner in (float_, int8)}
    n = len(part.truth)
    share, interval = agreement(judged.probabilities[float_], judged.probabilities[int8])
    loss = ours[float_].accuracy - ours[int8].accuracy
    return Verdict(split, n, loss, max(max_drop, 1 / n), share, len(judged.truth), interval)
