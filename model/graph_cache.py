"""Compiled graphs and where they are kept, so that only the first process has to wait for the compiler.

What compiling gives (the graph's code, and the kernels' machine code) is a folder named by a key of everything it
depends on: our code, torch, the device, the network's shapes. A folder found filled is loaded in a second or two.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

GRAPH_NAME = "graph.bin"
"""Written last: a folder that has it is complete."""


class CompileError(RuntimeError):
    """A network could not be compiled; the message says why in one line."""


class CompileCache(Protocol):
    """Where compiled graphs are kept."""

    def slot(self, key: str) -> AbstractContextManager[Path]:
        """The folder of one graph, for this process alone while it is entered.

        It holds `GRAPH_NAME` if the graph was compiled before; if it holds it only on leaving, it is kept for others.
        """
        ...


class LocalCompileCache:
    """Graphs in a folder of this machine; two processes that lack the same graph both compile it.

    Args:
        root: the folder; made when it is needed.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @contextmanager
    def slot(self, key: str) -> Iterator[Path]:
        """See `CompileCache.slot`."""
        folder = self.root / key
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


class NoCompileCache:
    """Keeps nothing."""

    @contextmanager
    def slot(self, key: str) -> Iterator[Path]:
        """See `CompileCache.slot`."""
        with tempfile.TemporaryDirectory(prefix=f"magihuman-{key[:8]}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def load_or_compile(
    function: Callable[..., Any],
    example: Sequence[Any],
    open_dims: Mapping[int, Sequence[int]],
    facts: Mapping[str, Any],
    cache: CompileCache | None = None,
) -> Callable[..., Any]:
    """Compile a function whole, or load what an earlier process compiled; either way it has run once afterwards.

    Args:
        function: a plain function; modules among its arguments keep their weights, which the graph does not hold.
        example: its arguments, with tensors of the dtypes, devices and widths that all later ones have.
        open_dims: number of an argument to those of its dims that may have another length later, above 1.
        facts: what besides the function's code and this machine the graph depends on.
        cache: where graphs are kept.

    Raises:
        CompileError: if it cannot be compiled, or into several graphs only.
    """
    device = next(x.device for x in example if isinstance(x, Tensor))
    key = graph_key(facts, device)
    with (cache or NoCompileCache()).slot(key) as folder, _kernels_in(folder), torch.inference_mode():
        path = folder / GRAPH_NAME
        if path.exists():
            try:
                with path.open("rb") as file:
                    compiled = torch.compiler.load_compiled_function(file, f_globals=function.__globals__)
                compiled(*example)
                return compiled
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # the graph is not at fault
            except Exception as error:  # cut off, or of a torch that keeps graphs in another way
                logger.warning("compiling anew: graph %s does not load: %s", key, _one_line(error))
                shutil.rmtree(folder)
                folder.mkdir()
        try:
            compiled = _compile(function, example, open_dims)
            compiled(*example)  # kernels come into being when they are first run
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:
            reason = f"{_one_line(error)}; compiler: none does without, more slowly"
            raise CompileError(f"torch.compile failed: {reason}") from error
        try:
            partial = path.with_name(f"{GRAPH_NAME}.{uuid.uuid4().hex}")
            compiled.save_compiled_function(str(partial))
            os.replace(partial, path)
        except OSError as error:  # it runs all the same
            logger.warning("the compiled graph is not kept: %s", error)
        return compiled


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]


def _compile(function: Callable[..., Any], example: Sequence[Any], open_dims: Mapping[int, Sequence[int]]) -> Any:
    for index, dims in open_dims.items():
        torch._dynamo.mark_dynamic(example[index], list(dims))
    options: dict[str, Any] = {
        # Nothing is checked when the graph is called: all that could differ is in the key or left open.
        "guard_filter_fn": lambda guards: [False] * len(guards),
        # Buffers kept for a later use add up to half as much memory again; the allocator gives them out anew anyway.
        "allow_buffer_reuse": False,
    }
    # What PyTorch 2.11 has as an option, later ones do by themselves.
    with torch._dynamo.config.patch(enable_aot_compile=True):
        compiled: Any = torch.compile(function, fullgraph=True, options=options)
        return compiled.aot_compile((tuple(example), {}))


@contextmanager
def _kernels_in(folder: Path) -> Iterator[None]:
    """Let inductor and Triton keep their files in a folder instead of the user's."""
    from torch._inductor.utils import clear_caches

    places = {"TORCHINDUCTOR_CACHE_DIR": folder / "kernels", "TRITON_CACHE_DIR": folder / "kernels" / "triton"}
    before = {name: os.environ.get(name) for name in places}
    clear_caches()  # a kernel made earlier in this process would not be written again
    os.environ.update({name: str(path) for name, path in places.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        clear_caches()


def graph_key(facts: Mapping[str, Any], device: torch.device) -> str:
    """Name of a graph: a hash (32 hexadecimal digits) of all it depends on."""
    folder = Path(__file__).parent
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))}
    everything = {"facts": facts, "sources": sources, "machine": _machine(device)}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def _machine(device: torch.device) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "python": platform.python_version(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return versions | {"gpu": about.name, "capability": [about.major, about.minor]}
    # Code for a CPU is made for its instructions and for a number of threads.
    return versions | {"cpu": _cpu_flags(), "threads": torch.get_num_threads(), "machine": platform.machine()}


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
