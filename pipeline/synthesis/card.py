"""The data card: what a dataset holds, how its values are spread, how it was made and how to load it."""

from __future__ import annotations

import io
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa
from rich import filesize

from actors.request import LANGUAGES
from actors.storage import join, write_atomically
from pipeline.durations import format_duration
from pipeline.ledger import Ledger
from pipeline.synthesis.dataset import INDEX_FOLDER, Dataset, label_axes
from pipeline.synthesis.recipe import RecipeError
from pipeline.synthesis.shards import SHARDS_FOLDER

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
FIGURE_NAME = "figures/distributions.png"

_COMMON_AXES = ("language", "resolution", "aspect")
_MOST_VALUES = 30
"""Bars and rows of one axis; the rest is counted."""
_MOST_PARTITIONS = 50
"""Rows of the table of partitions, the last ones."""
_BLUE, _GREY = "#2f6db5", "#b9bec6"
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
"""Names that the dataset cards of the Hugging Face Hub have for numbers of rows."""
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Arial Unicode MS", "Microsoft YaHei")
"""Those of them that are installed draw names; the first comes with matplotlib and lacks Chinese characters."""


@dataclass(frozen=True)
class PartitionLine:
    """One row of the table of partitions."""

    name: str
    num_clips: int
    num_failed: int
    seconds: float
    num_bytes: int


@dataclass
class Facts:
    """What the card tells.

    Attributes:
        partitions: finished ones, by name.
        splits: name to clips.
        drawn: axis to value to the clips that the recipes' weights ask for; a fraction, mostly.
        made: the same, counted.
        seconds: of every clip.
        columns: of the index, with their types.
        has_shards: whether any partition has them.
        has_references: whether any partition's clips start from reference images.
    """

    partitions: list[PartitionLine] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    drawn: dict[str, dict[str, float]] = field(default_factory=dict)
    made: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    has_shards: bool = False
    has_references: bool = False

    @property
    def num_clips(self) -> int:
        """Of all partitions."""
        return sum(line.num_clips for line in self.partitions)

    @property
    def num_bytes(self) -> int:
        """Of all partitions' clips."""
        return sum(line.num_bytes for line in self.partitions)

    @property
    def size_category(self) -> str:
        """As dataset cards name it."""
        return next(name for bound, name in _SIZES.items() if self.num_clips < bound)


def collect(dataset: Dataset, tables: Mapping[str, pa.Table]) -> Facts:
    """Add up the indexes of finished partitions.

    Args:
        dataset: whose partitions count.
        tables: partition to its index, where it is not written yet, or is written anew.
    """
    facts = Facts()
    for partition in sorted({*dataset.finished_partitions(), *tables}):
        try:
            _add(facts, dataset, partition, tables.get(partition))
        except (RecipeError, KeyError) as error:
            if partition in tables:
                raise
            logger.warning("partition %s is not in the data card (%s)", partition, error)
    return facts


def _add(facts: Facts, dataset: Dataset, partition: str, table: pa.Table | None) -> None:
    recipe, num_drawn = dataset.read_recipe(partition), dataset.num_drawn(partition)
    schema = dataset.index_schema(partition) if table is None else table.schema
    axes = _shown_axes(recipe)
    if table is None:
        table = dataset.read_index(partition, ["split", "seconds", "num_bytes", *axes])
    for axis in axes:
        facts.made.setdefault(axis, Counter()).update(map(_named, table[axis].to_pylist()))
        values, drawn = recipe["axes"][axis], facts.drawn.setdefault(axis, {})
        total = math.fsum(one["weight"] for one in values)
        for one in values:
            name = _named(one["value"])
            drawn[name] = drawn.get(name, 0.0) + num_drawn * one["weight"] / total
    facts.splits.update(dict.fromkeys(recipe["splits"], 0))
    facts.splits.update(table["split"].to_pylist())
    facts.seconds += table["seconds"].to_pylist()
    facts.columns |= {column.name: _type_name(column.type) for column in schema}
    facts.has_shards |= "shard" in schema.names
    facts.has_references |= "image" in recipe["axes"]
    seconds, num_bytes = math.fsum(table["seconds"].to_pylist()), sum(table["num_bytes"].to_pylist())
    facts.partitions.append(PartitionLine(partition, table.num_rows, num_drawn - table.num_rows, seconds, num_bytes))


def write_card(dataset: Dataset, partition: str, table: pa.Table) -> str:
    """Write `README.md` and its figure anew, with a partition whose index is written next.

    Args:
        dataset: what it is about.
        partition: whose recipe says name, text and license.
        table: its index.

    Returns:
        URL of the card.
    """
    facts, recipe = collect(dataset, {partition: table}), dataset.read_recipe(partition)
    run = Ledger(dataset.partition_url(partition)).read_run()
    write_atomically(join(dataset.url, *FIGURE_NAME.split("/")), draw(facts), "image/png")
    url = join(dataset.url, CARD_NAME)
    write_atomically(url, render(facts, recipe, run).encode(), "text/markdown; charset=utf-8")
    return url


def render(facts: Facts, recipe: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The card in Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        facts: what it tells.
        recipe: that says name, text and license.
        run: `run.json` of the same partition.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(count="{:,}".format, cell=_cell, duration=format_duration, size=filesize.decimal)
    template = resources.files("pipeline.synthesis").joinpath("card.md.j2").read_text("utf-8")
    return environment.from_string(template).render(
        recipe=recipe,
        version=run.get("versions", {}).get("magihuman-ray", ""),
        checkpoint=str(run.get("checkpoint", "")).rstrip("/").rpartition("/")[2],
        mode=run.get("settings", {}).get("mode", ""),
        facts=facts,
        languages={code: name for code, name in LANGUAGES.items() if facts.made["language"][code]},
        tables=[(axis, _spread(facts, axis)) for axis in facts.drawn],
        partitions=facts.partitions[-_MOST_PARTITIONS:],
        num_partitions_left_out=max(0, len(facts.partitions) - _MOST_PARTITIONS),
        figure=FIGURE_NAME,
        index=INDEX_FOLDER,
        shards=SHARDS_FOLDER,
    )


def _spread(facts: Facts, axis: str) -> list[tuple[str, float, int]]:
    """Value, clips asked for, clips made: the most frequent ones, and the others together."""
    rows = [(value, wanted, facts.made[axis][value]) for value, wanted in facts.drawn[axis].items()]
    rows.sort(key=lambda row: -row[1])
    rest = rows[_MOST_VALUES:]
    if not rest:
        return rows
    others = (f"{len(rest)} others", math.fsum(row[1] for row in rest), sum(row[2] for row in rest))
    return [*rows[:_MOST_VALUES], others]


def draw(facts: Facts) -> bytes:
    """Plot how values are spread, asked for beside made, and how long clips are.

    Returns:
        A PNG file.
    """
    # The object, not pyplot: nothing is kept for the process, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = list(facts.drawn)
    num_rows = math.ceil((len(axes) + 1) / 2)
    figure = Figure(figsize=(11, 0.6 + 2.8 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(num_rows, 2, squeeze=False).ravel())
    for place, axis in zip(places, axes, strict=False):
        _bars(place, axis, _spread(facts, axis), with_legend=axis == axes[0])
    _lengths(places[len(axes)], facts.seconds)
    for place in places[len(axes) + 1 :]:
        place.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _bars(place: Any, axis: str, spread: Sequence[tuple[str, float, int]], with_legend: bool) -> None:
    numbers = range(len(spread))
    place.bar([number - 0.2 for number in numbers], [row[2] for row in spread], 0.4, label="clips", color=_BLUE)
    place.bar([number + 0.2 for number in numbers], [row[1] for row in spread], 0.4, label="by weight", color=_GREY)
    is_crowded = sum(len(row[0]) for row in spread) > 60
    names = [row[0] if len(row[0]) <= 24 else row[0][:23] + "…" for row in spread]
    place.set_xticks(list(numbers), names, rotation=35 if is_crowded else 0, ha="right" if is_crowded else "center")
    for label in place.get_xticklabels():
        label.set_parse_math(False)  # a dollar is a dollar
        label.set_fontfamily(_installed_fonts())
    _plain(place, axis)
    if with_legend:
        place.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


@cache
def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in there]


def _lengths(place: Any, seconds: Sequence[float]) -> None:
    place.hist(seconds, bins=min(30, max(5, len(set(seconds)))), color=_BLUE)
    _plain(place, "seconds")


def _plain(place: Any, title: str) -> None:
    place.set_title(title, loc="left")
    place.spines[["top", "right"]].set_visible(False)
    place.grid(axis="y", alpha=0.3)
    place.set_axisbelow(True)
    place.yaxis.get_major_locator().set_params(integer=True)


def _shown_axes(recipe: Mapping[str, Any]) -> list[str]:
    axes = [axis for axis in _COMMON_AXES if axis in recipe["axes"]]
    return [*axes, *label_axes(recipe)]


def _named(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else value


def _cell(text: str) -> str:
    """A text in a table: one line, whose bars divide nothing."""
    return " ".join(text.split()).replace("|", "\\|")


def _type_name(kind: pa.DataType) -> str:
    return {"string": "text", "double": "number"}.get(
        str(kind), "whole number" if pa.types.is_integer(kind) else str(kind)
    )
