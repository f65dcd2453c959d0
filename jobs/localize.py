"""`python -m jobs.localize`: a campaign of scenes becomes clips in many languages, with subtitles and a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.plain_text import printable
from actors.references import AllowedReferences, folder_of
from actors.request import LANGUAGES, Language
from actors.storage import join
from jobs.arguments import (
    EXIT_USAGE,
    JobParser,
    absolute,
    add_address,
    add_checkpoint,
    add_dry_run,
    add_mode,
    add_output,
    add_overwrite,
    add_selection,
    add_settings,
    fleet_of,
    names,
    require_checkpoint,
    settings_of,
)
from jobs.connection import ClusterError
from jobs.generate import EXIT_DEAD_LETTERS, EXIT_DONE, STATUSES, run
from jobs.next_steps import with_next_step
from pipeline.images import is_there
from pipeline.localization.books import (
    REJECTED_NAME,
    SCENES_NAME,
    write_books,
    write_rejections,
)
from pipeline.localization.campaign import CampaignRow, read_campaign
from pipeline.localization.expansion import Expansion, expand, languages_of
from pipeline.localization.outcomes import read_outcomes
from pipeline.manifest import write_manifest
from pipeline.preview import print_plan, print_prompts
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings

PROG = "python -m jobs.localize"

MANIFEST_NAME = "manifest.jsonl"
_SHOWN_ROWS = 20


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    campaign = "--campaign examples/campaign.csv --output out/campaign --checkpoint checkpoints/mini"
    parser = JobParser(
        prog,
        "Make the clips of a campaign, one per scene and language, with subtitles and a page. Running the same command "
        "again continues where it stopped.",
        (f"{campaign} --dry-run --gpus 8 --price 2.5", campaign, f"{campaign} --languages ja,de --only welcome"),
        {**STATUSES, EXIT_DONE: "every line is a clip", EXIT_DEAD_LETTERS: "some lines were rejected or failed"},
        "Campaigns: docs/localization.md. Settings: docs/settings.md.",
    )
    parser.ends.add_argument(
        "--campaign", required=True, metavar="URL", help="CSV, JSONL, Parquet or YAML; local or e.g. s3://"
    )
    add_output(parser)
    add_checkpoint(parser, "checkpoint folder; local or e.g. s3://; a dry run can do without", is_required=False)
    made = parser.made
    made.add_argument(
        "--languages", type=_languages, default="all", metavar="L,...", help="such as ja,de (default: all it has)"
    )
    made.add_argument("--split", action="store_true", help="cut lines that are too long at the ends of sentences")
    add_selection(parser, "of the last run", "scenes or clips")
    add_overwrite(parser, "make a clip anew where its line or scene has changed")
    add_mode(parser)
    add_settings(parser)
    add_address(parser)
    add_dry_run(parser)
    return parser


def _languages(text: str) -> tuple[Language, ...] | None:
    if text == "all":
        return None
    found = names(text)
    if wrong := next((name for name in found if name not in LANGUAGES), None):
        raise argparse.ArgumentTypeError(f"{printable(wrong)} is no language: {', '.join(LANGUAGES)} or all")
    return tuple(dict.fromkeys(cast(Language, name) for name in found)) or None


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    console = Console()
    try:
        require_checkpoint(options)
        settings = settings_of(options)
        campaign_url = absolute(options.campaign, "campaign")
        references = AllowedReferences.of_manifest(campaign_url, settings.allowed_references)
        rows = read_campaign(campaign_url)
        # All of the campaign is looked at, whatever is made now: table and page show it whole.
        wanted = {*languages_of(rows), *(options.languages or ())}
        languages = [cast(Language, code) for code in LANGUAGES if code in wanted]
        expansion = expand(rows, languages, references, folder_of(campaign_url), is_there, options.split)
        selected = _selected(expansion, options)
        if options.dry_run:
            return _preview(options, console, settings, selected)
        if options.retry_failed and not selected.clips:
            console.print("nothing failed that could be tried again", highlight=False)
            return EXIT_DONE
        settings = settings.model_copy(update={"allowed_references": references.prefixes})
        return _make(options, console, settings, rows, expansion, selected, languages)
    except (ValueError, OSError, ClusterError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE


def _make(
    options: argparse.Namespace,
    console: Console,
    settings: Settings,
    rows: Sequence[CampaignRow],
    expansion: Expansion,
    selected: Expansion,
    languages: Sequence[Language],
) -> int:
    spec = RunSpec(join(options.output, MANIFEST_NAME), options.output, options.checkpoint, settings, options.overwrite)
    with RunLock(spec.output_url) as lock:
        write_manifest([clip.request for clip in selected.clips], spec.manifest_url)
        write_rejections(expansion.rejections, spec.output_url)
        status = run(spec, lock, options.address)
        if lock.lost is not None:  # the books are another run's now
            return status
        outcomes = read_outcomes(expansion.clips, spec.output_url)
        page_url = write_books(spec.output_name, rows, expansion, outcomes, languages, spec.output_url)
    _print_problems(console, selected)
    if expansion.rejections:
        console.print(f"rejected: {join(spec.output_url, REJECTED_NAME)}", highlight=False, soft_wrap=True)
    console.print(f"scenes: {join(spec.output_url, SCENES_NAME)}", highlight=False, soft_wrap=True)
    console.print(f"campaign: {page_url}", highlight=False, soft_wrap=True)
    return EXIT_DEAD_LETTERS if status == EXIT_DONE and selected.rejections else status


def _selected(expansion: Expansion, options: argparse.Namespace) -> Expansion:
    """What is to be made now, and what of that is rejected.

    Raises:
        ValueError: a name that nothing has.
    """
    clips, rejections, only = expansion.clips, expansion.rejections, options.only
    if options.retry_failed:
        failed = {outcome.clip.request.id for outcome in read_outcomes(clips, options.output) if outcome.failure}
        clips, rejections = [clip for clip in clips if clip.request.id in failed], []
    if options.languages is not None:
        clips = [clip for clip in clips if clip.request.language in options.languages]
        rejections = [rejection for rejection in rejections if rejection.language in ("", *options.languages)]
    if only is not None:
        known = {name for clip in clips for name in (clip.scene, clip.request.id)}
        if wrong := next((name for name in only if name not in known), None):
            raise ValueError(f"--only {printable(wrong)}: no scene or clip that can be made has this id")
        clips = [clip for clip in clips if clip.scene in only or clip.request.id in only]
        rejections = []
    return replace(expansion, clips=clips[: options.limit], rejections=rejections)


def _preview(options: argparse.Namespace, console: Console, settings: Settings, selected: Expansion) -> int:
    requests = [clip.request for clip in selected.clips]
    print_prompts(console, requests, len(requests), sum(request.seconds or 0.0 for request in requests))
    _print_problems(console, selected)
    num_refused = print_plan(console, options.campaign, requests, settings, fleet_of(options), options.checkpoint)
    return EXIT_DEAD_LETTERS if selected.rejections or num_refused else EXIT_DONE


def _print_problems(console: Console, expansion: Expansion) -> None:
    for note in expansion.notes[:_SHOWN_ROWS]:
        console.print(f"note: {escape(printable(note, 300))}", highlight=False, soft_wrap=True)
    if (more := len(expansion.notes) - _SHOWN_ROWS) > 0:
        console.print(f"... and {more} more notes", highlight=False)
    if not expansion.rejections:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("row", "scene", "rejected"):
        table.add_column(name, overflow="fold")
    for rejection in expansion.rejections[:_SHOWN_ROWS]:
        failure = rejection.failure
        reason = f"{failure.field} {failure.reason}"
        table.add_row(str(rejection.row), escape(rejection.scene), f"[red]{escape(printable(reason, 500))}")
    console.print(table)
    if (more := len(expansion.rejections) - _SHOWN_ROWS) > 0:
        console.print(f"... and {more} more", highlight=False)
    console.print(f"{len(expansion.rejections)} rejected", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
