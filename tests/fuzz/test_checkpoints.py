"""Damaged checkpoints: sound enough, or one line that names the file; told without a weight being read."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import MAX_MESSAGE_CHARACTERS, CheckpointError, LocalFiles
from model.checkpoint_writer import write_capabilities
from model.inspection import check_components
from model.layout import COMPONENTS, find_layout
from tests.hostile import damage, damages, outcome, repeatable, texts, values
from tests.tiny_checkpoint import write_tiny_checkpoint


class WithOneChanged:
    """A checkpoint in which one file holds something else."""

    def __init__(self, files: LocalFiles, name: str, data: bytes):
        self.url, self.files, self.name, self.data = files.url, files, name, data
        self.sizes = {**files.sizes, name: len(data)}

    def open(self, name):
        return io.BytesIO(self.data) if name == self.name else self.files.open(name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    write_capabilities(folder, Capabilities(min_seconds=0.5))
    return LocalFiles(folder)


def require_sound_or_one_line(files, changed):
    """Look at the checkpoint, and into the first component that the changed file is a part of."""

    def look():
        layout = find_layout(files)
        read_capabilities(files, layout)
        owners = [name for name in COMPONENTS if layout.has(name) and changed in layout.files(name).all]
        return check_components(files, tuple(owners[:1])) if owners else {"nothing": None}

    contents, error = outcome(look, CheckpointError)
    if error is None:
        assert contents
    else:
        assert str(error).isprintable()
        assert 0 < len(str(error)) <= MAX_MESSAGE_CHARACTERS + 4
    return error is None


def heads(data: bytes, how):
    """Damage at the beginning, where a file's table of contents is, as often as anywhere else."""
    seed, kind, where = how
    return damage(data, (seed, kind, where**6))


@pytest.mark.slow
def test_a_checkpoint_with_a_damaged_file(files):
    for name in files.sizes:
        assert require_sound_or_one_line(files, name)
    found = set()

    @repeatable(120)
    @given(st.sampled_from(sorted(files.sizes)), damages())
    def look(name, how):
        data = heads(files.path(name).read_bytes(), how)
        found.add(require_sound_or_one_line(WithOneChanged(files, name, data), name))

    look()
    assert False in found


@pytest.mark.slow
def test_a_checkpoint_whose_configuration_says_anything(files):
    names = [name for name in files.sizes if name.endswith(".json")]

    found = set()

    @repeatable(80)
    @given(st.sampled_from(sorted(names)), st.data())
    def look(name, data):
        config = json.loads(files.path(name).read_bytes())
        place = data.draw(st.one_of(st.sampled_from(sorted(config) or ["x"]), texts))
        config[place] = data.draw(values)
        found.add(require_sound_or_one_line(WithOneChanged(files, name, json.dumps(config).encode()), name))

    look()
    assert False in found


def test_a_checkpoint_whose_table_of_contents_says_anything(files):
    names = [name for name in files.sizes if name.endswith(".safetensors")]

    found = set()

    @repeatable(80)
    @given(st.sampled_from(sorted(names)), st.data())
    def look(name, data):
        stored = files.path(name).read_bytes()
        length = int.from_bytes(stored[:8], "little")
        header = json.loads(stored[8 : 8 + length])
        tensor = data.draw(st.one_of(st.sampled_from(sorted(header)), texts))
        facts = {"dtype": values, "shape": values, "data_offsets": values}
        if isinstance(header.get(tensor), dict) and data.draw(st.booleans()):
            header[tensor][data.draw(st.sampled_from(sorted(facts)))] = data.draw(values)
        else:
            header[tensor] = data.draw(st.one_of(values, st.fixed_dictionaries(facts)))
        changed = json.dumps(header).encode()
        data_of_file = len(changed).to_bytes(8, "little") + changed + stored[8 + length :]
        found.add(require_sound_or_one_line(WithOneChanged(files, name, data_of_file), name))

    look()
    assert False in found
