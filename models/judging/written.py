"""A report put into its bundle: report.json, and drawn from it report.md, report.html and the pictures that need nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from models.judging import quantized, reliability
from models.judging.page import page
from models.judging.plots import png, reliability_figure, sensitivity_figure
from models.judging.report import Report, markdown
from service.bundle.manifest import Manifest
from service.bundle.store import MANIFEST, Bundle, write_bundle

REPORT = "report.json"


def write_report(
    bundle: Bundle,
    manifest: Manifest,
    report: Report,
    *,
    pictures: Mapping[str, bytes] | None = None,
    without: Collection[str] = (),
) -> Bundle:
    """The bundle with `manifest`, `report` and `pictures` (PNG by file name); its other files stay, but for those called `without`."""
    kept = {
        file.name: file.read_bytes()
        for file in bundle.path.iterdir()
        if file.is_file() and file.name != MANIFEST and file.name not in without
    }
    files = {**kept, **(pictures or {}), **_drawn(report)}
    text = markdown(report, full=True)
    shown = {name: data for name, data in files.items() if name.endswith(".png")}
    files[REPORT] = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()
    files[str(Path(REPORT).with_suffix(".md"))] = text.encode()
    files[str(Path(REPORT).with_suffix(".html"))] = page(text, shown, title=f"{manifest.name} {manifest.version}")
    return write_bundle(bundle.path, manifest, files)


def _drawn(report: Report) -> dict[str, bytes]:
    found = {}
    if report.get("reliability"):
        found[reliability.PICTURE] = png(reliability_figure(report["reliability"]))
    quantization = report.get("quantization", {})
    if (quantization.get("sensitivity") or {}).get("rows"):
        kept = quantization.get("skipped", [])
        found[quantized.PICTURE] = png(sensitivity_figure(quantization["sensitivity"], kept=kept))
    return found
