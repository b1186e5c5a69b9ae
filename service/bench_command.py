"""`marey bench`: a bundle on every engine that runs here, or a service under load."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from service.console import one_sentence, settings_of, status
from service.engine.buckets import BUCKETS


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--url", help="Measure the service there under load, such as http://127.0.0.1:8000.")
@click.option(
    "--http", is_flag=True, help="Serve BUNDLE and measure that, against a loop in one process on the same cores."
)
@click.option(
    "--file", type=click.Path(exists=True, path_type=Path), help="What to post: an image, a video or a folder of them."
)
@click.option(
    "--concurrency", "levels", multiple=True, type=click.IntRange(1, 1024), help="Requests at a time; repeatable."
)
@click.option(
    "--overload",
    type=click.FloatRange(min=0.1),
    help="Ask the service at --url for so many times its capacity, whether or not it keeps up; exit code 1 where it fails.",
)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Likewise, so many requests a second.")
@click.option("--engine", "engines", multiple=True, help="Only this one; repeatable. torch: the same network in torch.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["int8", "fp16", "fp32"]),
    help="Only this; repeatable.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.Choice([str(rows) for rows in BUCKETS]),
    help="Frames in one run of the encoder, or clips of a clip network, repeatable; default: all up to the largest that pays.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.05), help="For each configuration (default 2; for each level of load 12)."
)
@click.option(
    "--rounds", type=click.IntRange(min=2), default=6, show_default=True, help="Turns that these are cut into."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (default: all that this process may use).")
@click.option("--device", type=click.IntRange(min=0), default=0, help="GPU, by its number.")
@click.option(
    "--torch-mode",
    type=click.Choice(["auto", "eager", "default", "reduce-overhead", "max-autotune"]),
    default="auto",
    help="auto: max-autotune on a GPU, eager on a CPU.",
)
@click.option("--json", "json_to", metavar="FILE|-", help="Also write the figures as JSON; - prints them and no table.")
@one_sentence
def bench(
    bundle: Path | None,
    url: str | None,
    http: bool,
    file: Path | None,
    levels: tuple[int, ...],
    overload: float | None,
    rate: float | None,
    json_to: str | None,
    **wishes: Any,
) -> int:
    """Measure BUNDLE on every engine that runs here, at every precision, beside torch; or a service under load.

    All that is compared is measured in turns within one run; the noise is what the rounds differ by.
    """
    from service.bench.command import of_bundle, of_overload, of_service  # noqa: PLC0415  # the other commands do without

    if (bundle is None) == (url is None):
        raise click.UsageError("name the BUNDLE to measure, or the --url of a service, and not both")
    if url is None and not http and (file or levels):
        raise click.UsageError("--file and --concurrency are for a service; give --http or --url with them")
    if (rate or overload) and (url is None or (rate and overload)):
        raise click.UsageError("--rate and --overload are for a service at --url, and one of the two is enough")
    settings = settings_of(threads=wishes["threads"], log_level="error")  # what does not run is in the table
    command = shlex.join(["marey", *sys.argv[1:]])
    try:  # before minutes are spent on figures that could not be kept
        target = None if json_to in (None, "-") else Path(str(json_to)).open("w", encoding="utf-8")  # noqa: SIM115  # written below
    except OSError as error:
        raise click.UsageError(f"--json {json_to}: {error.strerror}; name a file that can be written") from None
    report: BaseModel
    met = True
    if url is not None and (rate or overload):
        report, table = of_overload(
            url, rate=rate, overload=overload, file=file, levels=levels, wishes=wishes, command=command, tell=status
        )
        met = report.met
    elif url is not None or http:
        report, table = of_service(
            bundle, url=url, file=file, levels=levels, wishes=wishes, settings=settings, command=command, tell=status
        )
    else:
        assert bundle is not None
        report, table = of_bundle(bundle, wishes=wishes, settings=settings, command=command, tell=status)
    status("")
    document = report.model_dump_json(indent=2) + "\n"
    if json_to == "-":
        click.echo(document, nl=False)
    else:
        click.echo(table)
    if target is not None:
        with target:
            target.write(document)
    return 0 if met else 1
