"""An export drawn for a person, from its part of report.json alone: what became what, what it costs, what INT8 may hurt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Layer = Mapping[str, Any]
# More rows than this of one part are drawn by stage, and more stages than this with the middle left out.
_ROWS = 14
_NAMED = 3


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in a terminal, too; a bar in a cell, as in a user's label, ends no column."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[place]) for row in cells)) for place in range(len(header))]
    lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in lines]


def parts(export: Mapping[str, Any], *, full: bool) -> list[str]:
    """Each part with its layers: all of them, or one row for those of one resolution where they are many."""
    rows = []
    for role, part in export.get("parts", {}).items():
        layers = part["layers"]
        shown = [_row(layer) for layer in layers] if full or len(layers) <= _ROWS else _stages(layers)
        per = "a frame" if role == "encoder" else f"a clip of {export['frames']}"
        total = (f"all, for {per}", "", "", f"{part['parameters']:,}", count(part["macs"]))
        rows += [(role if number == 0 else "", *row) for number, row in enumerate((*shown, total))]
    header = ["part", "layers", "class", "output, channels first", "parameters in the graph", "MACs"]
    return [*markdown_table(header, rows), *([] if full else _remarks(export))] if rows else []


def _remarks(export: Mapping[str, Any]) -> list[str]:
    """Why it became one network or takes a fixed number of frames, and what else the exporter has to say."""
    told = [str(each) for each in export.get("notes", [])]
    if export.get("static_frames_because"):
        told.insert(0, f"The network takes {export['static_frames']} frames: {export['static_frames_because']}.")
    if export.get("not_split"):
        told.insert(0, f"One network for whole clips: {export['not_split']}.")
    return ["", *(f"- {each}" for each in told)] if told else []


def steps(export: Mapping[str, Any]) -> list[str]:
    """The layers that run step by step, as a loop of TensorRT or written out, and what a loop costs."""
    lines = [
        f"- {loop['layer']}: {loop['kind']} of {loop['hidden']} units, {loop['steps']} steps{', both directions' if loop['directions'] == 2 else ''}"
        for loop in export.get("loops", [])
    ]
    lines += [
        f"- {layer}: written out for {export['frames']} frames; its steps wait for one another, without a loop"
        for layer in export.get("written_step_by_step", [])
    ]
    return [*lines, *([""] if lines else []), export["loops_cost"]] if "loops_cost" in export else []


def warnings(export: Mapping[str, Any]) -> list[str]:
    """What INT8 will hurt, a line for each kind of trouble."""
    lines = []
    for risk in export.get("warnings", []):
        more = len(risk["layers"]) - _NAMED
        where = ", ".join(f"`{name}`" for name in risk["layers"][:_NAMED]) + (f" and {more} more" if more > 0 else "")
        skips = " ".join(f"--skip {name}" for name in risk["skip"][:_NAMED])
        rest = " … (all are in report.json)" if len(risk["skip"]) > _NAMED else ""
        lines.append(
            f"- {risk['kind']} in {where}: {risk['finding']}. {risk['remedy'][0].upper()}{risk['remedy'][1:]}"
            + (f": `marey-build quantize … {skips}`{rest}." if skips else ".")
        )
    return lines


def count(number: float) -> str:
    """4089184256 as 4.09 G."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:g}"


def _row(layer: Layer) -> tuple[str, ...]:
    return (layer["name"], layer["class"], _shape(layer), f"{layer['parameters']:,}", count(layer["macs"]))


def _shape(layer: Layer) -> str:
    return "×".join(str(size) for size in layer["output"])


def _stages(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """Neighbours of one resolution become one row; channels do not count, so that it is the stages of a CNN that remain."""
    groups: list[list[Layer]] = []
    before: tuple[int, ...] | None = None
    for layer, resolution in zip(layers, _resolutions(layers), strict=True):
        if groups and resolution == before:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        before = resolution
    rows = [_stage(group) for group in groups]
    if len(rows) <= _ROWS:
        return rows
    left = [layer for group in groups[_ROWS // 2 : -_ROWS // 2] for layer in group]
    middle = (f"… {len(left)} layers", "", "", *_sums(left))
    return [*rows[: _ROWS // 2], middle, *rows[-_ROWS // 2 :]]


def _resolutions(layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """What each layer gives but for its channels; a gate that is pooled to one value and comes back belongs to its surroundings."""
    own = [tuple(layer["output"][1:] if len(layer["output"]) > 2 else layer["output"]) for layer in layers]
    maps = [len(layer["output"]) > 2 and max(layer["output"][1:]) > 1 for layer in layers]
    last = max((place for place, whole in enumerate(maps) if whole), default=0)
    for place in range(1, last):
        if not maps[place]:
            own[place] = own[place - 1]
    return own


def _stage(group: Sequence[Layer]) -> tuple[str, ...]:
    if len(group) == 1:
        return _row(group[0])
    kinds = Counter(layer["class"] for layer in group).most_common(_NAMED)
    told = ", ".join(f"{number} {kind}" if number > 1 else kind for kind, number in kinds)
    name = f"{group[0]['name']} … {group[-1]['name']} ({len(group)})"
    shown = next((layer for layer in reversed(group) if len(layer["output"]) > 2), group[-1])
    return (name, told, _shape(shown), *_sums(group))


def _sums(group: Sequence[Layer]) -> tuple[str, str]:
    return f"{sum(layer['parameters'] for layer in group):,}", count(sum(layer["macs"] for layer in group))
