"""Compiled graphs shared by processes of a node and by nodes."""

import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from actors.compile_cache import SharedCompileCache
from actors.storage import StorageError, list_names, write_atomically
from model import graph_cache
from model.graph_cache import GRAPH_NAME, load_or_compile


def triple(x_NC: torch.Tensor) -> torch.Tensor:
    return (3 * x_NC).cumsum(1)


def tripled(cache: SharedCompileCache) -> torch.Tensor:
    function = load_or_compile(triple, (torch.ones(9, 4),), {0: (0,)}, {"what": "triple"}, cache)
    return function(torch.ones(5, 4))


@pytest.fixture
def compiled(monkeypatch):
    """How often something was compiled."""
    calls, compile_it = [], graph_cache._compile

    def count(*arguments):
        calls.append(1)
        return compile_it(*arguments)

    monkeypatch.setattr(graph_cache, "_compile", count)
    return calls


@pytest.mark.slow
def test_a_second_node_takes_the_graph_from_the_store(tmp_path, s3_bucket, compiled):
    url = f"{s3_bucket}/graphs"
    results = [tripled(SharedCompileCache(str(tmp_path / node), url)) for node in ("first", "second", "second")]
    assert len(compiled) == 1
    assert len(list_names(url)) == 1
    assert len(list((tmp_path / "second").glob(f"*/{GRAPH_NAME}"))) == 1
    for result in results:
        torch.testing.assert_close(result, triple(torch.ones(5, 4)))


def test_what_a_killed_process_left_is_not_taken_for_a_graph(tmp_path, s3_bucket, compiled):
    first, second = (SharedCompileCache(str(tmp_path / node), s3_bucket) for node in ("first", "second"))
    tripled(first)
    [graph] = (tmp_path / "first").glob(f"*/{GRAPH_NAME}")
    key = graph.parent.name
    for left in (f"{key}.partial", f"{key}/kernels"):
        (tmp_path / "second" / left).mkdir(parents=True)
        (tmp_path / "second" / left / "rest").write_text("half a file")
    tripled(second)
    assert len(compiled) == 1
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [key, f"{key}.lock"]


def test_processes_of_a_node_wait_for_the_one_that_compiles(tmp_path):
    cache, entered, go_on = SharedCompileCache(str(tmp_path)), threading.Event(), threading.Event()

    def first() -> None:
        with cache.slot("key") as folder:
            entered.set()
            assert go_on.wait(10)
            (folder / GRAPH_NAME).write_text("a graph")

    def second() -> str:
        assert entered.wait(10)
        with cache.slot("key") as folder:
            return (folder / GRAPH_NAME).read_text()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        waiting = pool.submit(second)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        go_on.set()
        assert waiting.result(20) == "a graph"


def test_a_store_that_is_not_there_is_told_before_compiling(tmp_path, s3_endpoint, compiled):
    with pytest.raises(StorageError, match="cannot list s3://no-such-bucket/graphs: not found"):
        tripled(SharedCompileCache(str(tmp_path), "s3://no-such-bucket/graphs"))
    assert not compiled


def test_a_graph_that_cannot_be_kept_runs_all_the_same(tmp_path, compiled, caplog):
    (tmp_path / "store").write_text("a file where the folder should be")
    result = tripled(SharedCompileCache(str(tmp_path / "node"), str(tmp_path / "store")))
    torch.testing.assert_close(result, triple(torch.ones(5, 4)))
    assert "the compiled graph stays on this node: cannot write" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no zip file", None], ids=["cut off", "another torch's"])
def test_a_damaged_graph_in_the_store_is_replaced(tmp_path, s3_bucket, compiled, content):
    tripled(SharedCompileCache(str(tmp_path / "first"), s3_bucket))
    [name] = list_names(s3_bucket)
    if content is None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(GRAPH_NAME, b"not this graph")
        content = buffer.getvalue()
    write_atomically(f"{s3_bucket}/{name}", content)
    for node, num_compiled in (("second", 2), ("third", 2)):
        tripled(SharedCompileCache(str(tmp_path / node), s3_bucket))
        assert len(compiled) == num_compiled


def test_a_folder_that_cannot_be_made_costs_the_graph_and_not_the_actor(tmp_path, compiled, caplog):
    (tmp_path / "file").write_text("no folder")
    result = tripled(SharedCompileCache(str(tmp_path / "file" / "node")))
    torch.testing.assert_close(result, triple(torch.ones(5, 4)))
    assert "compiled graphs are not kept: " in caplog.text
