"""What a run has to do: its manifest, held against what the output has and what the checkpoint can make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from actors.checkpoint_source import open_checkpoint
from actors.fingerprint import LaneFingerprint
from actors.references import AllowedReferences
from actors.row import Failure
from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import CheckpointError, CheckpointFiles
from model.components import Contents
from model.inspection import check_components
from model.layout import Layout, find_layout
from pipeline.lane import Lanes, LaneWork
from pipeline.ledger import Ledger
from pipeline.manifest import ManifestRow, RowValidator, SeenIds
from pipeline.offer import find_impossible
from pipeline.row_checks import checked_rows
from pipeline.run_result import RunResult
from pipeline.run_spec import RunSpec
from pipeline.valid_row import ClipKind, ValidRow
from pipeline.worklist import Status


class Intake:
    """Sorts the rows of a manifest.

    Args:
        spec: of the run.
        ledger: of its output.
        result: gets the rows.

    Attributes:
        capabilities: what the checkpoint can be asked for; the release's until a valid row has made us look.
        contents: of the components that the clips to do are made with.
        references: where images and recordings may lie; nowhere until the output has been looked at.
    """

    def __init__(self, spec: RunSpec, ledger: Ledger, result: RunResult):
        self.spec, self.ledger, self.result = spec, ledger, result
        self.capabilities = Capabilities()
        self.contents: dict[str, Contents] = {}
        self.references = AllowedReferences(())
        self._fingerprints: dict[str, str] = {}
        self._lanes_found: dict[tuple[str, bool], LaneFingerprint] = {}
        self._possible: set[ClipKind] = set()
        self._checkpoint: tuple[CheckpointFiles, Layout, Lanes] | None = None

    def read(self) -> list[LaneWork]:
        """Read the manifest once; what is left to do, lane by lane.

        What this checkpoint cannot make becomes a dead letter, and so does a clip in the output that was made from
        something else, unless it may be overwritten. If anything is left, the checkpoint's components for it are looked
        through, so that a fault shows before a GPU is taken.

        Raises:
            CheckpointError: if the checkpoint lacks a component or holds one that is not sound.
            RowFileError: if the manifest cannot be read.
            SettingsError: if the settings do not go with the checkpoint's samplers.
            StorageError: if the checkpoint or the output cannot be read.
        """
        self.references = AllowedReferences.of_manifest(
            self.spec.manifest_url, self.spec.settings.allowed_references, self.ledger.read_references()
        )
        validator, ids, is_output_known = RowValidator(self.spec.manifest_url, self.references), SeenIds(), False
        with closing(checked_rows(self.spec.manifest_url, validator, self._lanes_found)) as rows:
            for (line, raw), row in rows:
                self.result.counts.num_rows += 1
                if isinstance(row, ManifestRow):
                    self.result.refuse(row)
                    continue
                if (twice := ids.add(row.id, line)) is not None:
                    self.result.refuse(ManifestRow(line, validator.validate(line, raw).values, failure=twice))
                    continue
                if not is_output_known:
                    self._look_at_output()
                    is_output_known = True
                with self._naming_the_checkpoint():
                    status = self._sort(row)
                if isinstance(status, Failure):
                    self.result.refuse(validator.validate(line, raw), status)
                    continue
                self.result.worklist.add(row, status)
                self.result.counts.num_skipped += status == Status.SKIPPED
        if not is_output_known:
            self._look_at_output()
        if self._checkpoint is None:
            return []
        files, _, lanes = self._checkpoint
        with self._naming_the_checkpoint():
            works = lanes.works()
            needed = tuple(dict.fromkeys(name for work in works for name in work.components))
            self.contents = check_components(files, needed)
        return works

    def _look_at_output(self) -> None:
        self._fingerprints = self.ledger.fingerprints(self.ledger.committed_ids())
        self.result.committed_ids = set(self._fingerprints)

    def _sort(self, row: ValidRow) -> Status | Failure:
        if self._checkpoint is None:
            files = open_checkpoint(self.spec.checkpoint_url)
            layout = find_layout(files)
            self.capabilities = read_capabilities(files, layout)
            self._checkpoint = files, layout, Lanes(files, layout, self.spec.settings, self.capabilities)
        _, layout, lanes = self._checkpoint
        if row.kind not in self._possible:
            failure = find_impossible(row.parsed(), self.capabilities, layout)
            if failure is not None:
                return failure
            self._possible.add(row.kind)
        found = self._fingerprints.get(row.id)
        if found is not None:
            wanted = row.fingerprint or self._fingerprint(row, lanes)
            if found == wanted:
                return Status.SKIPPED
            if not self.spec.overwrite:
                return _made_from_something_else(row.id, found, wanted)
        lanes.add(row)
        return Status.TODO

    def _fingerprint(self, row: ValidRow, lanes: Lanes) -> str:
        key = row.kind.resolution, row.kind.has_image
        if key not in self._lanes_found:
            self._lanes_found[key] = lanes.fingerprint(*key)
        return self._lanes_found[key].of_clip(row.parsed())

    @contextmanager
    def _naming_the_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {self.spec.checkpoint_url}: {error}") from error


def _made_from_something_else(clip_id: str, found: str, wanted: str) -> Failure:
    reason = (
        "the output holds a clip of this id made from another request, checkpoint or settings (fingerprint "
        f"{found[:8]}, now {wanted[:8]}): give the row another id, write to another output, or pass --overwrite"
    )
    return Failure("manifest", "id", clip_id, reason)
