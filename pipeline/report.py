"""What a run leaves behind: results table, dead letters, run facts, gallery, and the summary on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.clip_files import clip_name
from actors.plain_text import printable
from actors.redaction import redact, redact_values
from actors.request import LANGUAGES, ClipRequest, StructuredPrompt
from actors.row import Failure
from actors.storage import join
from pipeline.durations import format_duration
from pipeline.gallery import MAX_CARDS, ClipCard, RunFacts, render_gallery
from pipeline.ledger import COMPLETE, DEAD_LETTER_NAME, INTERRUPTED, RUNNING
from pipeline.manifest import DEAD_LETTER_KEY
from pipeline.run import Run
from pipeline.worklist import Status

_SUMMARY_ROWS = 20


def begin_books(run: Run) -> None:
    """Write `run.json` before the first clip: who looks at the output later knows what was begun, and how."""
    run.ledger.write_run(_run_facts(run, RUNNING))


def write_books(run: Run, reason: str | None = None) -> str:
    """Write `results.parquet`, `dead_letter.jsonl`, `run.json` and `index.html` as things stand now.

    Args:
        run: that has ended.
        reason: why, where it was before its time.

    Returns:
        URL of the gallery page.
    """
    result, counts, ledger = run.result, run.result.counts, run.ledger
    facts = _run_facts(run, COMPLETE if result.is_complete else INTERRUPTED)
    facts["reason"] = None if result.is_complete or reason is None else redact(reason)
    facts["clips"] = [asdict(count) for count in ledger.write_results(result.committed_ids)]
    ledger.write_dead_letters(result.dead_letters.to_jsonl())
    ledger.write_run(facts)
    page = RunFacts(
        title=run.spec.output_name,
        started=facts["started_at"],
        finished=facts["finished_at"] if result.is_complete else None,
        mode=run.spec.settings.mode,
        checkpoint=redact(run.spec.checkpoint_url),
        num_done=counts.num_done,
        num_dead_lettered=counts.num_failed,
        num_skipped=counts.num_skipped,
        clips_per_minute=facts["totals"]["clips_per_minute"],
        wall_s=facts["totals"]["wall_s"],
        versions=result.versions,
        dead_letter_url=DEAD_LETTER_NAME if result.dead_letters else None,
    )
    num_others = sum(clip_id not in result.worklist for clip_id in result.committed_ids)
    num_cards = len(result.dead_letters) + result.worklist.num_made + num_others
    return ledger.write_gallery(render_gallery(page, list(_cards(run)), num_cards))


def _run_facts(run: Run, state: str) -> dict[str, Any]:
    """Content of `run.json`."""
    result, counts = run.result, run.result.counts
    now = datetime.now(UTC)
    totals: dict[str, Any] = {
        "num_rows": counts.num_rows,
        "num_done": counts.num_done,
        "num_skipped": counts.num_skipped,
        "num_dead_lettered": counts.num_failed,
        "num_left": counts.num_left,
        "wall_s": round((now - result.started_at).total_seconds(), 3),
        "clips_per_minute": round(counts.clips_per_minute, 3),
        "lanes": {lane: asdict(of_lane) for lane, of_lane in counts.lanes.items()},
        "failures": [asdict(kind) for kind in counts.failures.most_frequent()],
    }
    return {
        "run_id": result.run_id,
        "state": state,
        "started_at": result.started_at.isoformat(timespec="seconds"),
        "finished_at": None if state == RUNNING else now.isoformat(timespec="seconds"),
        "manifest": redact(run.spec.manifest_url),
        "output": redact(run.spec.output_url),
        "checkpoint": redact(run.spec.checkpoint_url),
        "allowed_references": list(run.references.prefixes),
        "totals": totals,
        "settings": redact_values(run.settings.model_dump(mode="json")),
        "pools": {lane: [asdict(pool) for pool in plan.pools] for lane, plan in result.plans.items()},
        "phased_lanes": [lane for lane, plan in result.plans.items() if plan.is_phased],
        "versions": result.versions,
    }


def _cards(run: Run) -> Iterator[ClipCard]:
    """Dead letters first, since somebody has to do something; then this manifest's clips; then the output's others."""
    result = run.result
    for letter in result.dead_letters.first[:MAX_CARDS]:
        yield _dead_card(letter)
    yield from map(_clip_card, _first_records(run, MAX_CARDS - len(result.dead_letters)))


def _first_records(run: Run, num_records: int) -> list[dict[str, Any]]:
    """Records of this manifest's clips, and of others in the output behind them; of a failed row's older clip none."""
    worklist, committed = run.result.worklist, run.result.committed_ids
    own = (clip_id for clip_id in worklist if worklist.status(clip_id) in (Status.DONE, Status.SKIPPED))
    others = (clip_id for clip_id in sorted(committed) if clip_id not in worklist)
    ids = list(islice(chain(own, others), max(0, num_records)))
    records = {record["id"]: record for record in run.ledger.records(ids)}
    return [records[clip_id] for clip_id in ids if clip_id in records]


def _clip_card(record: dict[str, Any]) -> ClipCard:
    request = ClipRequest.model_validate(record["request"])
    mp4 = record["mp4"]
    return ClipCard(
        id=request.id,
        status="done",
        language=request.language,
        prompt=request.prompt.description if isinstance(request.prompt, StructuredPrompt) else request.prompt,
        dialogue=request.prompt.dialogue if isinstance(request.prompt, StructuredPrompt) else (),
        width=mp4["width"],
        height=mp4["height"],
        resolution=request.resolution,
        aspect=request.aspect,
        seconds=mp4["video_s"],
        seed=record["seed"],
        stage_seconds=record["stage_seconds"],
        video_url=clip_name(request.id, "mp4"),
        poster_url=clip_name(request.id, "jpg"),
    )


def _dead_card(letter: dict[str, Any]) -> ClipCard:
    language = letter.get("language")
    return ClipCard(
        id=_dead_name(letter),
        status="dead_lettered",
        language=language if language in LANGUAGES else "",
        prompt=letter["prompt"] if isinstance(letter.get("prompt"), str) else "",
        failure=_failure(letter),
    )


def _dead_name(letter: dict[str, Any]) -> str:
    """Id of a dead letter, or its line where it has none."""
    return str(letter.get("id") or f"line {letter[DEAD_LETTER_KEY]['line']}")


def _failure(letter: dict[str, Any]) -> Failure:
    return Failure(**{name: letter[DEAD_LETTER_KEY][name] for name in ("stage", "field", "value", "reason")})


def print_summary(console: Console, run: Run, gallery_url: str) -> None:
    """Print a table of the manifest's rows (the first ones of many), the totals, and where everything is."""
    result, counts = run.result, run.result.counts
    table = Table(box=None, pad_edge=False)
    for name in ("id", "language"):
        table.add_column(name, overflow="fold")
    for name in ("size", "length"):
        table.add_column(name, justify="right")
    table.add_column("status", overflow="fold")
    for letter in result.dead_letters.first[:_SUMMARY_ROWS]:
        failure, clip_id = _failure(letter), _dead_name(letter)
        table.add_row(
            escape(printable(clip_id)),
            escape(printable(str(letter.get("language") or ""))),
            "",
            "",
            f"[red]{escape(printable(str(failure), 500))}",
        )
    for record in _first_records(run, min(_SUMMARY_ROWS - len(result.dead_letters), result.worklist.num_made)):
        mp4 = record["mp4"]
        size, length = f"{mp4['width']}x{mp4['height']}", f"{mp4['video_s']:.2f} s"
        table.add_row(record["id"], LANGUAGES[record["request"]["language"]], size, length, "[green]done")
    console.print(table)
    if (num_hidden := counts.num_rows - table.row_count) > 0:
        console.print(f"... and {num_hidden} more rows", highlight=False)
    if counts.num_skipped:
        console.print(f"{counts.num_skipped} were done already and skipped", highlight=False)
    seconds = (datetime.now(UTC) - result.started_at).total_seconds()
    console.print(
        f"{counts.num_done} made, {counts.num_skipped} skipped, {counts.num_failed} dead-lettered "
        f"in {format_duration(seconds)}",
        highlight=False,
    )
    if result.dead_letters:
        path = join(run.ledger.output_url, DEAD_LETTER_NAME)
        console.print(f"dead letters: {path} (mend a copy and use it as a manifest)", highlight=False, soft_wrap=True)
    console.print(f"gallery: {gallery_url}", highlight=False, soft_wrap=True)
