"""A bundle in words, for `marey inspect`."""

from __future__ import annotations

from service.bundle.manifest import Manifest
from service.bundle.pixel_steps import pixel_steps, said
from service.bundle.store import Bundle


def describe(bundle: Bundle) -> str:
    """Several lines: what it is, what goes in, what it holds, how well it does, where it comes from."""
    manifest = bundle.manifest
    rows = [("bundle", f"{manifest.name} {manifest.version} (every hash verified)"), ("what", manifest.description)]
    rows += [("tasks", ", ".join(manifest.tasks)), ("classes", _labels(manifest)), ("network", _network(manifest))]
    rows += [("input", _input(manifest))]
    rows += [("sampling", _sampling(manifest))]
    rows += [
        (
            role,
            f"{artifact.file}, {artifact.bytes / 2**20:.2f} MiB, {artifact.precision}, weights {artifact.weights}, opset {artifact.opset}",
        )
        for role, artifact in manifest.artifacts.items()
    ]
    if (calibration := manifest.calibration) is not None:
        rows.append(
            (
                "calibration",
                f"{calibration.method} on {calibration.frames} frames of {calibration.data} ({calibration.split or 'no split'})",
            )
        )
        if calibration.forced is not None:
            rows.append(("forced", calibration.forced))
        if (known := calibration.statistics) is not None:
            spans = (("brightness", known.brightness), ("contrast", known.contrast))
            told = ", ".join(f"{name} {points[0]:.0f} to {points[-1]:.0f}" for name, points in spans)
            rows.append(("its frames", f"{told} of 255 levels"))
    rows += [
        (
            "accuracy",
            f"{metric.precision} on {metric.engine}: {metric.accuracy:.1%} "
            f"[{metric.accuracy_interval[0]:.1%}, {metric.accuracy_interval[1]:.1%}], {metric.split} n={metric.n}"
            + ("" if metric.agreement is None else f", agreement with fp32 {metric.agreement:.1%}"),
        )
        for metric in manifest.metrics
    ]
    source = manifest.provenance
    rows += [("data", f"{source.data or 'unknown'}; {source.data_license or 'no licence stated'}")]
    rows += [("made by", source.command)] if source.command else []
    return "\n".join(f"{name:<13}{text}" for name, text in rows if text)


def _labels(manifest: Manifest) -> str:
    shown = ", ".join(manifest.labels[:6])
    several = ", any number of them at a time (multi-label)" if manifest.network.multi_label else ""
    return f"{len(manifest.labels)}: {shown}{', …' if len(manifest.labels) > 6 else ''}{several}"


def _network(manifest: Manifest) -> str:
    network = manifest.network
    parts = {
        "encoder_head": f"encoder ({network.feature_dim} features a frame) and head",
        "clip": "one for the whole clip",
    }
    fixed = f"{network.static_frames} frames and no other number" if network.static_frames else "any number of frames"
    grid = network.grid
    by_place = f"probabilities for {grid.rows}×{grid.columns} places" if grid else "probabilities by position"
    more = {"attention": network.attention, by_place: network.positions}
    return ", ".join([parts[network.kind], fixed, *(f"with {name}" for name, held in more.items() if held)])


def _input(manifest: Manifest) -> str:
    spec = manifest.input
    side = f" (short side {spec.resize.short_side})" if spec.resize.short_side else ""
    return f"{spec.height}×{spec.width} {spec.color} uint8, resized by {spec.resize.rule}{side}" + "".join(
        f", then {said(step)}" for step in pixel_steps(spec)
    )


def _sampling(manifest: Manifest) -> str:
    sampling = manifest.sampling
    what = f"{sampling.fps:g} frames a second" if sampling.fps else f"{sampling.frames} frames over the clip"
    most = "and no other number" if manifest.network.static_frames else f"at most {sampling.max_frames}"
    return f"{sampling.strategy}, {what}, {most}; short clips {sampling.short_clip}"
