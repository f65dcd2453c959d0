"""A run's status for people: tables in a terminal, the same without colours and bar where it is piped."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.plain_text import printable
from pipeline.durations import format_duration
from pipeline.run_status import RunStatus, Standing

_STYLES = {
    "running": "bold cyan",
    "silent": "bold yellow",
    "killed": "bold red",
    "interrupted": "bold yellow",
    "complete": "bold green",
    "unknown": "bold yellow",
}
_LONGEST = 400
"""Characters of a text that somebody else has written."""


def status_lines(status: RunStatus, with_bar: bool) -> RenderableType:
    """Everything that is known.

    Args:
        status: of an output.
        with_bar: draw a bar, for a terminal.
    """
    head = Text.assemble(f"{status.output}: ", (status.state, _STYLES[status.state]))
    parts: list[RenderableType] = [head, *(Text(f"  {line}") for line in _about(status))]
    standing = status.standing
    if standing is not None:
        if with_bar:
            made = standing.num_skipped + standing.num_done + standing.num_failed
            parts += [ProgressBar(total=max(1, standing.num_rows), completed=made, width=48), ""]  # it ends no line
        parts.append(Text(_rows(status, standing)))
        tables = [_lanes_table(status, standing), _failures_table(standing), _clips_table(status)]
        for table in tables:
            if table.row_count:
                parts += ["", table]
    for hint in _hints(status):
        parts += ["", Text(hint)]
    return Group(*parts)


def status_line(status: RunStatus) -> str:
    """One line, for a log."""
    rows = f": {_rows(status, status.standing)}" if status.standing is not None else ""
    heartbeat = f", last heartbeat {_ago(status.lock.age_s)}" if status.lock is not None else ""
    return f"{status.state}{rows}{heartbeat}"


def _about(status: RunStatus) -> Iterator[str]:
    lock, lasted = status.lock, status.elapsed_s
    if lock is not None:
        by = f"run {_shown(lock.run_id)} on host {_shown(lock.host)} (process {_shown(lock.pid)})"
        length = "" if lasted is None else f", {format_duration(lasted)} {'so far' if status.is_alive else 'long'}"
        yield f"{by}, from {_shown(lock.started_at)} on{length}"
        yield f"last heartbeat {_ago(lock.age_s)}" + _what_silence_means(status)
    elif status.text("started_at"):
        length = "" if lasted is None else f", {format_duration(lasted)}"
        yield f"from {_shown(status.text('started_at'))} to {_shown(status.text('finished_at') or 'unknown')}{length}"
    if status.text("reason"):
        yield f"ended before its time: {_shown(status.text('reason'))}"
    for name in ("manifest", "checkpoint"):
        if status.text(name):
            yield f"{name} {_shown(status.text(name))}"
    if status.standing is None and status.is_alive:
        yield "has not said yet how far it is: it reads its manifest, or waits for the cluster"


def _what_silence_means(status: RunStatus) -> str:
    assert status.lock is not None
    if status.state == "killed":
        return ": it is dead"
    silent = f"; counts as dead when silent for {status.lock.stale_s:g} s"
    return silent if status.state == "silent" else ""


def _rows(status: RunStatus, standing: Standing) -> str:
    done = standing.num_skipped + standing.num_done
    earlier = f" ({standing.num_skipped:,} of them by earlier runs)" if standing.num_skipped else ""
    text = f"{done:,} of {standing.num_rows:,} done{earlier}, {standing.num_failed:,} failed"
    text += f", {standing.num_left:,} left"
    if standing.num_done:
        text += f", {standing.clips_per_minute:,.1f} clips/min"
    if status.is_alive:
        left_s = standing.time_left_s
        text += ", time left unknown yet" if left_s is None else f", {format_duration(left_s)} to go"
    return text


def _lanes_table(status: RunStatus, standing: Standing) -> Table:
    table = _table("lane", "clips", "done", "failed", "left", *(["in flight"] if status.is_alive else []))
    for name, lane in standing.lanes.items():
        left = lane.num_clips - lane.num_done - lane.num_failed
        flying = standing.in_flight if name == standing.lane else {}
        in_flight = ", ".join(f"{_shown(stage)} {number}" for stage, number in flying.items() if number)
        numbers = (lane.num_clips, lane.num_done, lane.num_failed, left)
        cells: list[Text | str] = [Text(_shown(name)), *(f"{number:,}" for number in numbers)]
        table.add_row(*cells, *([Text(in_flight)] if status.is_alive else []))
    return table


def _failures_table(standing: Standing) -> Table:
    table = _table("failed in", "field", "times", "reason (of the first)")
    table.columns[1].justify, table.columns[3].justify = "left", "left"
    for kind in standing.failures:
        texts = [Text(_shown(text)) for text in (kind.stage, kind.field, f"{kind.num:,}", kind.reason)]
        table.add_row(*texts)
    num_others = standing.num_failed - sum(kind.num for kind in standing.failures)
    if table.row_count and num_others > 0:
        table.add_row("", "", f"{num_others:,}", "others")
    return table


def _clips_table(status: RunStatus) -> Table:
    table = _table("clips in the output", "language", "clips", "length")
    table.columns[1].justify = "left"
    for count in status.clips:
        length = format_duration(count.video_s)
        table.add_row(Text(_shown(count.resolution)), Text(_shown(count.language)), f"{count.num_clips:,}", length)
    return table


def _hints(status: RunStatus) -> Iterator[str]:
    if status.state == "killed":
        yield (
            "what is done is kept: the same command of jobs.generate continues. Numbers are those of its last sign of "
            "life; --write books all its clips"
        )
    elif status.state == "interrupted":
        yield "what is done is kept: the same command of jobs.generate continues"
    elif status.state == "unknown":
        yield "holds clips, but no run.lock and no run.json that can be read; --write books the clips"
    elif status.state == "complete" and status.has_dead_letters:
        yield f"rows that failed: {status.output.rstrip('/')}/dead_letter.jsonl (mend a copy and use it as a manifest)"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _ago(seconds: float) -> str:
    return f"{format_duration(seconds)} ago"


def _shown(value: object) -> str:
    return printable(str(value), _LONGEST)
