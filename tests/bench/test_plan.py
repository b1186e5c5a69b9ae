"""What `marey plan` predicts of this machine, and what a service on it does."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from service.bench.samples import made_samples
from service.bundle.store import Bundle
from service.cli import main
from service.plan.figures import read_figures
from tests.calm import fairly


def test_a_service_answers_as_many_clips_as_its_figures_predict(shipped: Bundle, tmp_path: Path) -> None:
    """Within 0.6 and 1.4 times: the cores that wait for one another are not in the model, nor is what batches share."""
    file, out = tmp_path / "clip.mp4", tmp_path / "figures.json"
    file.write_bytes(made_samples("video").files[0])
    arguments = ["plan", "measure", str(shipped.path), "--file", str(file), "--out", str(out)]

    def attempt() -> str:
        result = CliRunner().invoke(main, [*arguments, "--seconds", "0.8", "--rounds", "3"])
        assert result.exit_code == 0, result.output
        served = read_figures(out).served
        ratio = served.per_s.median / served.predicted_per_s
        return "" if 0.6 < ratio < 1.4 else f"measured {ratio:.2f} times what was predicted"

    fairly(attempt)
