"""What a run is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from actors.storage import join
from pipeline.ledger import DEAD_LETTER_NAME
from pipeline.settings import Settings


@dataclass(frozen=True)
class RunSpec:
    """What to run.

    Attributes:
        manifest_url: rows to turn into clips.
        output_url: folder of the results.
        checkpoint_url: the model.
        settings: everything else.
        overwrite: make a clip anew where the output holds one of the same id made from something else.

    Raises:
        ValueError: a URL is empty, or the manifest is a file that the run rewrites.
    """

    manifest_url: str
    output_url: str
    checkpoint_url: str
    settings: Settings
    overwrite: bool = False

    def __post_init__(self) -> None:
        # Actors have another working directory than the driver: a path must mean the same to both.
        for name in ("manifest_url", "output_url", "checkpoint_url"):
            url = getattr(self, name)
            if not url:
                raise ValueError(f"{name.removesuffix('_url')} must be a path or a URL, got ''")
            if "://" not in url:
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(url)))
        if self.manifest_url == join(self.output_url, DEAD_LETTER_NAME):
            raise ValueError(f"manifest {self.manifest_url} is rewritten by this run: mend a copy of it and use that")

    @property
    def output_name(self) -> str:
        """The last part of the output's URL."""
        return self.output_url.rstrip("/").rpartition("/")[2] or self.output_url
