"""A dataset's folder: what each partition drew, kept before anything is made, and the index of what was made.

samples/<partition>.parquet     what was drawn; partitions that are drawn later keep clear of it
partitions/<partition>/         a run's output: manifest, recipe, clips
shards/<partition>/             the same clips as WebDataset shards, where they are asked for
index/<partition>.parquet       written last: a partition that has one is finished
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from actors.clip_files import CLIPS_FOLDER
from actors.plain_text import shown
from actors.redaction import redact, redact_values
from actors.request import ClipRequest, StructuredPrompt
from actors.storage import exists, join, list_names, open_binary, read_bytes, write_atomically
from pipeline.ledger import RESULTS_NAME
from pipeline.manifest import write_manifest
from pipeline.run_lock import LockedError, RunLock
from pipeline.synthesis.draw import SampledClip
from pipeline.synthesis.recipe import REQUEST_AXES, Recipe, RecipeError

Found = TypeVar("Found")

MANIFEST_NAME = "manifest.jsonl"
RECIPE_NAME = "recipe.json"
SAMPLES_FOLDER, PARTITIONS_FOLDER, INDEX_FOLDER = "samples", "partitions", "index"

_LONGEST_WAIT_S, _BETWEEN_LOOKS_S = 3600.0, 1.0
"""Longer than drawing a large partition takes."""
SHARD = "shard"
"""Column of the index that says in which shard a clip is."""
_SHARD_MB = "shard_mb"
_PARQUET_TYPE = "application/vnd.apache.parquet"
_SAMPLE_FIELDS = [
    pa.field(name, pa.string()) for name in ("id", "partition", "split", "content", "caption", "transcript")
]
_RESULT_COLUMNS = {
    "prompt_text": "prompt",
    "language": "language",
    "video_s": "seconds",
    "audio_s": "audio_seconds",
    "num_frames": "num_frames",
    "width": "width",
    "height": "height",
    "resolution": "resolution",
    "aspect": "aspect",
    "seed": "seed",
    "mp4": "media",
    "sha256": "sha256",
    "media_sha256": "media_sha256",
    "num_bytes": "num_bytes",
    "fingerprint": "fingerprint",
}
"""Columns of `results.parquet` and what the index calls them."""
NOT_ABOUT_CONTENT = ("about", "license")
"""Fields of a recipe that may change between two runs of one partition."""


class Dataset:
    """The folder of a dataset.

    Args:
        url: local folder or any fsspec URL.
    """

    def __init__(self, url: str):
        self.url = url

    def partition_url(self, partition: str) -> str:
        """Folder of a partition's run."""
        return join(self.url, PARTITIONS_FOLDER, partition)

    def manifest_url(self, partition: str) -> str:
        """Manifest of a partition's run."""
        return join(self.partition_url(partition), MANIFEST_NAME)

    def _sample_url(self, partition: str) -> str:
        return join(self.url, SAMPLES_FOLDER, f"{partition}.parquet")

    def _index_url(self, partition: str) -> str:
        return join(self.url, INDEX_FOLDER, f"{partition}.parquet")

    def require_room_for(self, partition: str, recipe: Recipe) -> None:
        """Refuse a folder that is somebody else's, and names that others have taken.

        Raises:
            RecipeError: what is in the way.
        """
        others = [name for name in _stems(list_names(join(self.url, SAMPLES_FOLDER))) if name != partition]
        if not others and not self.is_drawn(partition) and exists(join(self.url, "README.md")):
            raise RecipeError(f"{redact(self.url)} holds a README.md and is no dataset: name another folder")
        if (twin := next((name for name in others if name.lower() == partition.lower()), None)) is not None:
            reason = "names must differ where upper and lower case are one"
            raise RecipeError(f"partition {partition}: there is {twin} already, and {reason}")
        if others and (name := self.read_recipe(others[0]).get("name")) != recipe.name:
            reason = "ids begin with it, so that no two clips have the same"
            raise RecipeError(
                f"recipe name={shown(recipe.name)} must be {shown(name)} as in other partitions: {reason}"
            )

    def has_clips(self, partition: str) -> bool:
        """Whether anything of a partition is made."""
        return bool(list_names(join(self.partition_url(partition), CLIPS_FOLDER)))

    def is_drawn(self, partition: str) -> bool:
        """Whether a partition's manifest is there."""
        return exists(self.manifest_url(partition))

    def is_finished(self, partition: str) -> bool:
        """Whether a partition is made and in the index."""
        return exists(self._index_url(partition))

    def finished_partitions(self) -> list[str]:
        """Names of those in the index, sorted."""
        return _stems(list_names(join(self.url, INDEX_FOLDER)))

    def require_same_recipe(self, partition: str, recipe: Recipe) -> None:
        """Refuse a recipe that a drawn partition does not come from.

        Raises:
            RecipeError: naming what differs.
        """
        there, now = self.read_recipe(partition), _plain_recipe(recipe)
        differing = (name for name in now if name not in NOT_ABOUT_CONTENT and there.get(name) != now[name])
        if name := next(differing, None):
            before, after = shown(there.get(name)), shown(now[name])
            differs = f"{name} is {after}, was {before}" if before != after else f"{name} is another"
            raise RecipeError(f"partition {partition} was drawn from another recipe: {differs}. Name another partition")

    def taken_contents(self, partition: str) -> set[str]:
        """Contents of all partitions drawn so far but this one."""
        taken: set[str] = set()
        for other in _stems(list_names(join(self.url, SAMPLES_FOLDER))):
            if other != partition:
                taken.update(_read(self._sample_url(other), ["content"])["content"].to_pylist())
        return taken

    def store(self, partition: str, recipe: Recipe, clips: Sequence[SampledClip]) -> None:
        """Keep what was drawn: contents first, so that nobody else draws them, the manifest last."""
        _write(self._sample_url(partition), _sample_table(partition, recipe, clips))
        text = json.dumps(_plain_recipe(recipe), ensure_ascii=False, indent=1)
        write_atomically(join(self.partition_url(partition), RECIPE_NAME), text.encode(), "application/json")
        write_manifest([clip.request for clip in clips], self.manifest_url(partition))

    def made(self, partition: str, left_out: Collection[str] = ()) -> pa.Table:
        """Drawn clips that are made, in the order they were drawn: the index, but for shards.

        Args:
            partition: its name.
            left_out: ids of clips that do not count, such as those a run has refused.
        """
        folder = self.partition_url(partition)
        results = _read(join(folder, RESULTS_NAME), ["id", *_RESULT_COLUMNS])
        results = results.rename_columns(["id", *_RESULT_COLUMNS.values()])
        sample = _read(self._sample_url(partition))
        place = pa.array(range(sample.num_rows), pa.int64())
        # What both have, the results know better: the length of a clip, for one.
        common = [name for name in sample.column_names if name != "id" and name in results.column_names]
        table = sample.drop_columns(common).append_column("place", place)
        table = table.join(results, "id", join_type="inner").sort_by("place").drop_columns(["place"])
        table = table.filter(pa.array([clip_id not in left_out for clip_id in table["id"].to_pylist()], pa.bool_()))
        prefix = f"{PARTITIONS_FOLDER}/{partition}/"
        media = pa.array([prefix + name for name in table["media"].to_pylist()], pa.string())
        return table.set_column(table.schema.get_field_index("media"), "media", media)

    def write_index(self, partition: str, table: pa.Table, shard_mb: int | None) -> None:
        """Write a partition's index, and the size of its shards: it is finished then."""
        facts = {} if shard_mb is None else {_SHARD_MB: str(shard_mb)}
        _write(self._index_url(partition), table.replace_schema_metadata(facts))

    def read_index(self, partition: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A finished partition's index."""
        return _read(self._index_url(partition), columns)

    def index_schema(self, partition: str) -> pa.Schema:
        """Columns of a finished partition's index."""
        return _opened(self._index_url(partition), lambda file: file.schema_arrow)

    def shard_mb(self, partition: str) -> int | None:
        """Size that a finished partition's shards were asked for with; None where it has none."""
        found = (self.index_schema(partition).metadata or {}).get(_SHARD_MB.encode())
        return None if found is None else int(found)

    def read_recipe(self, partition: str) -> dict[str, Any]:
        """The recipe a partition was drawn from, as plain values.

        Raises:
            RecipeError: the file that says so is damaged.
        """
        url = join(self.partition_url(partition), RECIPE_NAME)
        try:
            return dict(json.loads(read_bytes(url)))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{redact(url)} is damaged: {error}") from error

    def num_drawn(self, partition: str) -> int:
        """Clips of a partition's manifest."""
        return _opened(self._sample_url(partition), lambda file: int(file.metadata.num_rows))

    def num_made(self, partition: str) -> int:
        """Clips of a finished partition."""
        return _opened(self._index_url(partition), lambda file: int(file.metadata.num_rows))

    def requests(self, partition: str) -> list[ClipRequest]:
        """Rows of a drawn partition's manifest."""
        lines = read_bytes(self.manifest_url(partition)).splitlines()
        return [ClipRequest.model_validate_json(line) for line in lines]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Draw or write what concerns all partitions, while nobody else does; waits for others for a while.

        Raises:
            LockedError: they took too long.
        """
        ends = time.monotonic() + _LONGEST_WAIT_S
        while True:
            try:
                lock = RunLock(self.url)
                lock.__enter__()
                break
            except LockedError:
                if time.monotonic() > ends:
                    raise
                time.sleep(_BETWEEN_LOOKS_S)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)


def with_shards(table: pa.Table, shards: Sequence[str]) -> pa.Table:
    """An index that says in which shard a clip is."""
    return table.append_column(SHARD, pa.array(shards, pa.string()))


def _sample_table(partition: str, recipe: Recipe, clips: Sequence[SampledClip]) -> pa.Table:
    """What was drawn. Axes whose values the results tell otherwise are kept by their names there."""
    numeric = [axis for axis, values in recipe.axes.items() if all(isinstance(one.value, float) for one in values)]
    axes = [pa.field(axis, pa.float64() if axis in numeric else pa.string()) for axis in recipe.axes]
    rows = [
        {
            "id": clip.request.id,
            "partition": partition,
            "split": clip.split,
            "content": clip.content,
            "caption": _caption(clip),
            "transcript": clip.line,
            **{axis: redact(value) if isinstance(value, str) else value for axis, value in clip.values.items()},
        }
        for clip in clips
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*_SAMPLE_FIELDS, *axes]))


def _caption(clip: SampledClip) -> str:
    prompt = clip.request.prompt
    assert isinstance(prompt, StructuredPrompt)
    return prompt.description


def label_axes(recipe: Mapping[str, Any]) -> list[str]:
    """Axes of a stored recipe that the index has as columns of their own, beside those every clip has."""
    return [axis for axis in recipe["axes"] if axis not in REQUEST_AXES]


def _stems(names: Iterable[str]) -> list[str]:
    return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]


def _plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """As it is kept: without what opens a reference image, which is another the next time."""
    return dict(redact_values(recipe.model_dump(mode="json")))


def _read(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    return _opened(url, lambda file: file.read(None if columns is None else list(columns)))


def _opened(url: str, take: Callable[[pq.ParquetFile], Found]) -> Found:
    try:
        with open_binary(url) as file:
            return take(pq.ParquetFile(file))
    except pa.ArrowException as error:
        raise RecipeError(f"{redact(url)} is damaged: {' '.join(str(error).split())}") from error


def _write(url: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(url, buffer.getvalue(), _PARQUET_TYPE)
