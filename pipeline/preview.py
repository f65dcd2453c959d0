"""What a job would run, before it runs: what the clips take, planned as their run would be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from actors.request import LANGUAGES, ClipRequest
from pipeline.costs import CostError, CostTable, load_costs
from pipeline.forecast import Forecaster, Model, summarise
from pipeline.forecast_report import Forecast
from pipeline.gpu_memory import known_gpu_memory_gb
from pipeline.manifest import ManifestRow
from pipeline.settings import Settings

NARROWEST = 100
"""Columns of output that does not go to a terminal."""


@dataclass(frozen=True)
class Fleet:
    """What a forecast is made for.

    Attributes:
        num_gpus: that the run may use.
        gpu: their type.
        price: of a GPU-hour, if told.
    """

    num_gpus: int = 1
    gpu: str = "h100"
    price: float | None = None


def forecast(
    name: str,
    rows: Iterable[ManifestRow],
    settings: Settings,
    fleet: Fleet,
    checkpoint_url: str | None = None,
    costs_url: str | None = None,
) -> Forecast:
    """Plan the lanes of a manifest's rows.

    Args:
        name: of what is planned, for the reader.
        rows: of the manifest.
        settings: of the run.
        fleet: what it runs on.
        checkpoint_url: what it runs with; None: the release's sizes.
        costs_url: figures of `jobs.benchmark`; None: those of the settings, or published ones.

    Raises:
        CheckpointError: the checkpoint is none, or lacks a component.
        CostError: there is no figure for a stage, or figures are of another kind of machine.
        PlanError: pools do not fit.
        StorageError: a file cannot be read.
    """
    table = load_costs(costs_url or settings.costs)
    _require_costs_of_the_machine(table, fleet.num_gpus)
    model, gpu = Model.at(checkpoint_url), fleet.gpu.upper()
    summary = summarise(rows, model)
    return Forecast(
        manifest_url=name,
        summary=summary,
        lanes=Forecaster(settings, model, table, fleet.num_gpus, gpu).forecast(summary),
        table=table,
        gpu=gpu,
        gpu_gb=known_gpu_memory_gb(settings.gpu_memory_gb, gpu),
        num_gpus=fleet.num_gpus,
        price=fleet.price,
        precision=settings.precision,
        default_seconds=model.capabilities.default_seconds,
    )


def print_prompts(console: Console, shown: Sequence[ClipRequest], num_clips: int, seconds: float) -> None:
    """Print what clips will be: id, language, length, size, and the prompt as the model gets it.

    Args:
        console: where to.
        shown: clips that are printed.
        num_clips: of all.
        seconds: of all.
    """
    for request in shown:
        about = f"{LANGUAGES[request.language]}, {request.seconds:g} s, {request.resolution} {request.aspect}"
        console.print(f"[bold]{request.id}[/bold]  {about}", highlight=False)
        console.print(escape(request.prompt_text()), highlight=False, soft_wrap=True)
        console.print()
    more = f", of which {len(shown)} are shown" if len(shown) < num_clips else ""
    console.print(f"{num_clips:,} clips, {seconds:,.1f} s in all{more}", highlight=False)
    console.print()


def print_plan(
    console: Console,
    name: str,
    requests: Iterable[ClipRequest],
    settings: Settings,
    fleet: Fleet,
    checkpoint_url: str | None,
) -> int:
    """Print how clips would be run, how long that takes and what it costs; raises like `forecast`.

    Returns:
        How many of them the checkpoint cannot make.
    """
    found = forecast(name, rows_of(requests), settings, fleet, checkpoint_url)
    found.print(console if console.is_terminal else Console(width=NARROWEST))
    return found.summary.num_refused


def rows_of(requests: Iterable[ClipRequest]) -> Iterable[ManifestRow]:
    """Requests as rows of a manifest, numbered from 1."""
    return (ManifestRow(number, {}, request=request) for number, request in enumerate(requests, 1))


def _require_costs_of_the_machine(table: CostTable, num_gpus: int) -> None:
    if table.is_of_cpu == (num_gpus == 0):
        return
    wanted = "a GPU" if num_gpus else "a CPU"
    reason = f"needs figures of {wanted}, these are of {table.device}"
    raise CostError(f"--gpus {num_gpus} {reason}: the setting costs names a file of jobs.benchmark on such a machine")
