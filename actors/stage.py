"""What every stage does alike: skip failed rows, time itself, turn exceptions into the row's failure."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from actors.request import ClipRequest
from actors.row import ClipRow, Failure, RowError, pack, unpack
from actors.turns import Turn, WaitedSeconds
from model.compilation import COMPILERS, Compiler
from model.graph_cache import CompileCache
from model.widened_products import fast_bfloat16

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.bfloat16}
"""Precision setting to the dtype of linear layers and of the video networks; with fp8 the products of the Transformers'
layers take 8-bit floats."""


@dataclass(frozen=True)
class Compute:
    """Where and how an actor computes.

    Attributes:
        device: "cuda", "cpu", or "auto" for a GPU where the process sees one.
        precision: key of `DTYPES`; "bf16" as in the release.
        num_threads: CPU threads of one actor. Fixed, because results on a CPU depend on it in the last bits.
        compiler: of the networks, see `model.compilation`.
        compile_cache: where compiled graphs are kept; None: nowhere.
    """

    device: str = "auto"
    precision: str = "bf16"
    num_threads: int = 1
    compiler: Compiler = "none"
    compile_cache: CompileCache | None = None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {self.device!r}")
        if self.precision not in DTYPES:
            raise ValueError(f"precision must be one of {', '.join(DTYPES)}, got {self.precision!r}")
        if self.compiler not in COMPILERS:
            raise ValueError(f"compiler must be one of {', '.join(COMPILERS)}, got {self.compiler!r}")
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")

    @property
    def torch_device(self) -> torch.device:
        """The device, resolved in the process that asks."""
        has_gpu = torch.cuda.is_available()
        if self.device == "cuda" and not has_gpu:
            raise ValueError("device is cuda, but this process sees no GPU; use device: auto or cpu")
        return torch.device("cuda" if has_gpu and self.device != "cpu" else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a dtype."""
        return DTYPES[self.precision]

    @property
    def is_fp8(self) -> bool:
        """Whether the Transformers' layers take 8-bit floats."""
        return self.precision == "fp8"


@dataclass
class Work:
    """What a stage gets and changes: one healthy clip.

    Attributes:
        request: what was asked for.
        tensors: the payload; a stage replaces it with what the next stage needs.
        stage_seconds: seconds each earlier stage was busy with it, without waiting for other clips.
        notes: warnings for the user, kept with the clip.
    """

    request: ClipRequest
    tensors: dict[str, Tensor]
    stage_seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Stage(ABC):
    """A callable that takes a row and returns it one stage further; knows nothing of the engine that runs it.

    Subclasses load what they need in `__init__` and implement `process`. Two rows may be in `process` at once; what
    must not compute at once holds `self.lock`.
    """

    name: ClassVar[str]

    def __init__(self, compute: Compute):
        self.compute = compute
        torch.set_num_threads(compute.num_threads)
        self.device = compute.torch_device
        self.waited = WaitedSeconds()
        self.lock = Turn(self.device, self.waited)

    @abstractmethod
    def process(self, work: Work) -> None:
        """Do the stage's work, replacing `work.tensors`."""

    def __call__(self, row: ClipRow) -> ClipRow:
        """Process one row; a failed one passes untouched."""
        if row["failure"] is not None:
            return row
        torch.set_num_threads(self.compute.num_threads)  # per thread, and Ray calls from a pool of them
        started, waited_before = time.perf_counter(), self.waited.total
        stage_seconds, notes = json.loads(row["stage_seconds"]), json.loads(row["notes"])
        try:
            request = ClipRequest.model_validate_json(row["request"])
            work = Work(request, unpack(row["payload"]) if row["payload"] else {}, stage_seconds, notes)
            with fast_bfloat16(self.device):
                self.process(work)
            payload, failure = pack(work.tensors) if work.tensors else b"", None
        except RowError as error:
            payload, failure = b"", Failure(self.name, error.field, error.value, error.reason).to_json()
        except torch.OutOfMemoryError:
            raise  # whoever runs the stage knows what else takes memory, and can try again
        except torch.AcceleratorError:
            raise  # the GPU is in a broken state: every further row of this process would fail too
        except Exception as error:
            logger.exception("%s failed in %s", row["id"], self.name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            payload, failure = b"", Failure(self.name, "", None, reason).to_json()
        waited_s = self.waited.total - waited_before
        stage_seconds[self.name] = round(max(0.0, time.perf_counter() - started - waited_s), 3)
        return ClipRow(
            id=row["id"],
            request=row["request"],
            payload=payload,
            failure=failure,
            stage_seconds=json.dumps(stage_seconds),
            notes=json.dumps(notes, ensure_ascii=False),
        )
