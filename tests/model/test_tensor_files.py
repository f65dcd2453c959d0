import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import zstandard
from safetensors.torch import load_file, save_file

from model import tensor_files
from model.checkpoint_files import CheckpointError, LocalFiles
from model.tensor_files import as_it_is, read_safetensors, read_torch_file, safetensors_headers, torch_file_shapes
from model.variants import release_config
from tests.sparse_checkpoint import transformer_tensors, write_sparse_shards

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for shard in range(3):
        tensors = {f"{shard}.{n}": torch.randn(7, n + 1, generator=generator) for n in range(5)}
        tensors[f"{shard}.half"] = tensors[f"{shard}.4"].bfloat16()
        tensors[f"{shard}.empty"] = torch.zeros(0, 3)
        save_file(tensors, tmp_path / f"{shard}.safetensors")
    return tmp_path


def pack(folder: Path, level: int = 3) -> None:
    for path in folder.glob("*.safetensors"):
        path.with_name(path.name + ".zst").write_bytes(zstandard.ZstdCompressor(level).compress(path.read_bytes()))
        path.unlink()


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_all(folder: Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    files = LocalFiles(folder)
    headers = safetensors_headers(files, shards(folder))
    dtypes = {name: dtype or header.dtype for name, header in headers.items()}
    return read_safetensors(files, headers, dtypes, CPU, as_it_is)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("piece_bytes", [1, 100, 2**28])
def test_tensors_are_read_as_written_however_they_are_cut(folder, monkeypatch, is_packed, piece_bytes):
    expected = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    monkeypatch.setattr(tensor_files, "PIECE_BYTES", piece_bytes)
    if is_packed:
        pack(folder)
    for dtype in (None, torch.bfloat16, torch.float64):
        found = read_all(folder, dtype)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name].to(dtype or expected[name].dtype)) for name in expected)


@pytest.mark.parametrize("limit_bytes", [1, 300])
def test_readers_wait_for_room(folder, monkeypatch, limit_bytes):
    expected = read_all(folder, torch.float64)
    monkeypatch.setattr(tensor_files, "MAX_IN_FLIGHT_BYTES", limit_bytes)
    monkeypatch.setattr(tensor_files, "PIECE_BYTES", 100)
    held = most = 0
    hold = tensor_files._InFlight.hold

    @contextmanager
    def counted(self, num_bytes):
        nonlocal held, most
        with hold(self, num_bytes):
            with self.changed:
                held += num_bytes
                most = max(most, held)
            time.sleep(0.002)
            with self.changed:
                held -= num_bytes
            yield

    monkeypatch.setattr(tensor_files._InFlight, "hold", counted)
    for _ in range(2):
        found = read_all(folder, torch.float64)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        pack(folder)
    largest = 7 * 5 * 4
    assert largest <= most <= max(limit_bytes, largest)


def test_only_what_is_wanted_is_read(folder):
    for _ in range(2):
        files = LocalFiles(folder)
        headers = safetensors_headers(files, shards(folder))
        found = read_safetensors(files, headers, {"2.3": torch.float32, "0.0": torch.bfloat16}, CPU, as_it_is)
        assert {name: tensor.dtype for name, tensor in found.items()} == {"2.3": torch.float32, "0.0": torch.bfloat16}
        pack(folder)


def test_a_tensor_that_needs_no_change_is_a_view_of_the_file(folder):
    kept = read_all(folder)["0.0"]
    assert str(folder / "0.safetensors") in Path("/proc/self/maps").read_text()
    del kept
    converted = read_all(folder, torch.float64)
    assert str(folder) not in Path("/proc/self/maps").read_text(), "what was converted needs the file no longer"
    assert converted


def cut(data: bytes) -> bytes:
    return data[:-50]


def lengthen(data: bytes) -> bytes:
    return data + bytes(50)


def empty(_data: bytes) -> bytes:
    return b""


def spoil_header(data: bytes) -> bytes:
    return data[:20] + b"!" + data[21:]


def ask_for_more(data: bytes) -> bytes:
    return (2**40).to_bytes(8, "little") + data[8:]


@pytest.mark.parametrize("damage", [cut, lengthen, empty, spoil_header, ask_for_more])
@pytest.mark.parametrize("is_packed", [False, True])
def test_damage_of_any_kind_is_one_line_that_names_the_file(folder, damage, is_packed):
    path = folder / "1.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    if is_packed:
        pack(folder)
    with pytest.raises(
        CheckpointError, match=r"^1\.safetensors(\.zst)? is (damaged|cut short or damaged): .+$"
    ) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [cut, empty, lambda data: b"garbage" * 100])
def test_a_damaged_packing_is_one_line_that_names_the_file(folder, damage):
    pack(folder)
    path = folder / "1.safetensors.zst"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"^1\.safetensors\.zst is damaged: .+$"):
        read_all(folder)


def test_a_tensor_in_two_shards_is_named(folder):
    save_file({"0.1": torch.zeros(3)}, folder / "3.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 0.1 is both in 0.safetensors and in 3.safetensors"):
        read_all(folder)


def test_a_dtype_nobody_knows_is_named(tmp_path):
    header = json.dumps({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(
        CheckpointError, match=r"a.safetensors is damaged: dtype F4 of tensor x is not known here, only F64, F32"
    ):
        read_all(tmp_path)


def test_a_pytorch_file_shows_its_shapes_without_being_read(tmp_path):
    torch.save({"a": torch.randn(1000, 1000), "step": 3}, tmp_path / "x.pth")
    files, num_read = LocalFiles(tmp_path), 0

    class Counted:
        def __init__(self, file):
            self.file = file

        def read(self, size=-1):
            nonlocal num_read
            data = self.file.read(size)
            num_read += len(data)
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    class CountedFiles:
        url, sizes = files.url, files.sizes

        def open(self, name):
            return Counted(files.open(name))

    shown = torch_file_shapes(CountedFiles(), "x.pth")
    assert shown["a"].is_meta
    assert shown["a"].shape == (1000, 1000)
    assert shown["step"] == 3
    assert 0 < num_read < 100_000
    assert torch.equal(read_torch_file(files, "x.pth")["a"], torch.load(tmp_path / "x.pth")["a"])


def test_a_pytorch_file_of_the_old_format_is_read_too(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    files = LocalFiles(tmp_path)
    assert torch_file_shapes(files, "x.pth")["a"].shape == (3,)
    assert torch.equal(read_torch_file(files, "x.pth")["a"], torch.ones(3))


@pytest.mark.parametrize("read", [torch_file_shapes, read_torch_file])
def test_a_damaged_pytorch_file_is_one_line_that_names_it(tmp_path, read):
    torch.save({"a": torch.randn(100, 100)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"garbage" * 99):
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"^x\.pth is damaged") as caught:
            read(LocalFiles(tmp_path), "x.pth")
        assert "\n" not in str(caught.value)


LOAD = """
import json, sys
from pathlib import Path
import torch
from model.checkpoint import Checkpoint

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

checkpoint = Checkpoint(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
model = checkpoint.transformer("base", torch.bfloat16, torch.device("cpu"))
weights = sum(tensor.nbytes for tensor in model.state_dict().values())
print(json.dumps({"weights": weights, "peak": memory("VmHWM") - before}))
"""


@pytest.mark.slow
def test_loading_holds_little_more_than_the_weights(tmp_path):
    """A checkpoint of 4 GB in float32, of which half stays: reading it whole first would hold 4 GB more."""
    config = release_config("base")
    small = type(config)(num_layers=19, hidden_size=2048, expert_layers=(0, 18), gelu_layers=(0,))
    paths = write_sparse_shards(tmp_path / "base", transformer_tensors(small, torch.float32), 3)
    num_bytes = sum(path.stat().st_size for path in paths)
    largest = max(path.stat().st_size for path in paths)
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert num_bytes > 4e9
    assert found["weights"] > 2e9
    assert found["peak"] < found["weights"] + 1e9
    assert largest > 1e9
