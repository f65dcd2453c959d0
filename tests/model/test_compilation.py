"""Compiled networks against the plain ones, and graphs that are compiled once for all processes.

A compiled decoder, the release at full size and a process that only loads a graph take half a minute each and are for
`-m soak`. The same compiler is held against a plain Transformer with every kind of layer here;
`test_a_second_node_takes_the_graph_from_the_store` loads graphs.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from model.compilation import _example_inputs, compile_transformer, compile_video_decoder
from model.graph_cache import GRAPH_NAME, CompileError, LocalCompileCache, graph_key, load_or_compile
from model.opaque_attention import OpaqueAttention
from model.packed_linear import pack_linears
from model.packing import PackedLayout, SequenceLayout
from model.parity.report import relative_error
from model.transformer import Attention, Transformer, call_layer
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.variants import release_config
from tests.tiny_autoencoders import tiny_turbo_vae
from tests.tiny_checkpoint import tiny_config

CPU = torch.device("cpu")
EXAMPLE = SequenceLayout(4, 4, 6, 15, 9)
CLIPS = {
    "example": [EXAMPLE],
    "another prompt": [replace(EXAMPLE, num_text=23)],
    "another size and length": [SequenceLayout(7, 8, 4, 28, 9)],
    "as many sounds as words": [SequenceLayout(3, 4, 4, 12, 12)],
    "two frames": [SequenceLayout(2, 2, 2, 2, 2)],
    "three clips": [EXAMPLE, SequenceLayout(7, 2, 10, 28, 2), SequenceLayout(2, 8, 4, 5, 30)],
}


SHALLOW = {
    "patch_size": 4,
    "decoder_block_out_channels": [8, 12],
    "decoder_layers_per_block": [1, 1, 1],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_spatio_only": [False, False],
    "decoder_is_dw_conv": [False] * 3,
}


def lively(config) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config, torch.float32).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def inputs(model, layouts):
    torch.manual_seed(1)
    widths = (model.config.video_channels, model.config.audio_channels, model.config.text_channels)
    counts = PackedLayout(tuple(layouts)).token_counts
    tokens = [torch.randn(count, width) for count, width in zip(counts, widths, strict=True)]
    return *tokens, model.positions(layouts)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return LocalCompileCache(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def pair(cache):
    """A Transformer of every kind of layer, with local windows, plain and compiled."""
    config = replace(tiny_config("sr_1080p"), local_attention_radius=1)
    plain, compiled = lively(config), lively(config)
    compile_transformer(compiled, EXAMPLE, "torch", cache)
    return plain, compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
@torch.inference_mode()
def test_the_graph_gives_the_plain_velocities_of_any_clips(pair, name):
    plain, compiled = pair
    ours, expected = (model(*inputs(model, CLIPS[name])) for model in (compiled, plain))
    for one, other in zip(ours, expected, strict=True):
        assert not torch.equal(one, other), "it must have been the graph that ran"
        assert relative_error(one, other) < 1e-5


@pytest.mark.slow
@torch.inference_mode()
def test_other_clips_do_not_compile_anew(pair, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("compiled anew")

    monkeypatch.setattr("torch._dynamo.convert_frame._compile", refuse)
    _, compiled = pair
    for layouts in CLIPS.values():
        compiled(*inputs(compiled, layouts))


LOAD = """
import sys, torch, torch._inductor.compile_fx
from tests.model.test_compilation import *

torch.set_num_threads(1)
def refuse(*args, **kwargs):
    raise AssertionError("compiled anew")
torch._dynamo.convert_frame._compile = refuse
torch._inductor.compile_fx.compile_fx = refuse
config = replace(tiny_config("sr_1080p"), local_attention_radius=1)
plain, compiled = lively(config), lively(config)
compile_transformer(compiled, EXAMPLE, "torch", LocalCompileCache(sys.argv[1]))
with torch.inference_mode():
    ours, expected = (model(*inputs(model, CLIPS["three clips"])) for model in (compiled, plain))
print(max(relative_error(one, other) for one, other in zip(ours, expected)))
"""


@pytest.mark.soak
def test_another_process_loads_the_graph_and_compiles_nothing(pair, cache):
    command = [sys.executable, "-c", LOAD, str(cache.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.split()[-1]) < 1e-5


def double(x_NC: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x_NC * scale).cumsum(0) + 1


def doubled(cache, **facts):
    example = torch.arange(21.0).view(7, 3), torch.full((3,), 2.0)
    return load_or_compile(double, example, {0: (0,)}, facts, cache)


@pytest.mark.slow
def test_a_damaged_graph_is_compiled_anew(tmp_path, caplog):
    cache, x_NC, scale = LocalCompileCache(tmp_path), torch.arange(15.0).view(5, 3), torch.full((3,), 2.0)

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "model.graph_cache"]

    doubled(cache, what="double")
    [graph] = tmp_path.glob(f"*/{GRAPH_NAME}")
    graph.write_bytes(graph.read_bytes()[:1000])
    function = doubled(cache, what="double")
    assert any("compiling anew: graph" in message for message in warnings())
    torch.testing.assert_close(function(x_NC, scale), double(x_NC, scale))
    caplog.clear()
    doubled(cache, what="double")
    assert not warnings()
    assert [path.parent for path in tmp_path.glob(f"*/{GRAPH_NAME}")] == [graph.parent]


def test_the_key_covers_what_a_graph_depends_on(monkeypatch):
    keys = [graph_key({"layers": 40}, CPU), graph_key({"layers": 41}, CPU)]
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(graph_key({"layers": 40}, CPU))
    monkeypatch.undo()
    monkeypatch.setattr("model.graph_cache._cpu_flags", lambda: "flags: fpu")
    keys.append(graph_key({"layers": 40}, CPU))
    monkeypatch.undo()
    torch.set_num_threads(2)
    try:
        keys.append(graph_key({"layers": 40}, CPU))
    finally:
        torch.set_num_threads(1)
    assert len(set(keys)) == len(keys)
    assert graph_key({"layers": 40}, CPU) == keys[0]


def test_what_cannot_be_one_graph_is_one_line():
    def breaks(x: torch.Tensor) -> torch.Tensor:
        return x + x.sum().item() if x.sum() > 0 else x

    with pytest.raises(
        CompileError, match=r"torch\.compile failed: .*compiler: none does without, more slowly"
    ) as raised:
        load_or_compile(breaks, (torch.ones(3),), {}, {})
    assert "\n" not in str(raised.value)


@pytest.mark.soak
@pytest.mark.parametrize(("variant", "form"), [("base", "fp8"), ("sr_1080p", "packed")])
def test_the_release_is_one_graph_for_any_number_of_tokens(variant, form):
    """At full size on the meta device: the tracer sees everything, and nothing is computed."""
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    config = release_config(variant)
    with torch.device("meta"), torch.inference_mode():
        model = Transformer(config).requires_grad_(False)
        pack_linears(model, form)
        for module in model.modules():
            if isinstance(module, Attention):
                module.backend = OpaqueAttention(module.backend)
        model.block.run_layer = torch.compiler.nested_compile_region(call_layer)
        function = torch.compile(model.velocities, backend=backend, fullgraph=True)
        for layout in (SequenceLayout(32, 16, 28, 126, 300), SequenceLayout(32, 68, 120, 126, 77)):
            widths = (config.video_channels, config.audio_channels, config.text_channels)
            tokens = [torch.empty(count, width) for count, width in zip(layout.token_counts, widths, strict=True)]
            rope_NR = torch.empty(layout.num_tokens, config.head_dim // 8 * 6)
            arguments = (*tokens, rope_NR, PackedLayout((layout,)).table())
            for argument in arguments:
                torch._dynamo.mark_dynamic(argument, 0)  # an error if the graph fixes a length
            video_VC, audio_AC = function(*arguments)
            assert (video_VC.shape, audio_AC.shape) == ((layout.num_video, 192), (126, 64))
    [graph] = graphs
    called = [node for node in graph.graph.nodes if str(node.target) == "invoke_subgraph"]
    assert len(called) > 35, "layers are compiled once per kind"
    torch._dynamo.reset()


@pytest.mark.soak
def test_the_compiled_decoder_gives_the_plain_pixels(cache):
    """Two blocks instead of four, each doubling all there is to double: a convolution takes a second to compile."""
    config, tensors = tiny_turbo_vae(torch.Generator().manual_seed(0), SHALLOW)
    plain, compiled = (TurboVAEDecoder(TurboVAEConfig.from_dict(config)).eval().requires_grad_(False) for _ in range(2))
    for decoder in (plain, compiled):
        decoder.load_state_dict(tensors)
    compile_video_decoder(compiled, (4, 6), "torch", cache)
    for num_frames, height, width in ((17, 4, 6), (3, 6, 4), (9, 4, 4)):
        latent = torch.randn(1, 48, num_frames, height, width)
        pairs = list(zip(compiled.decode_chunks(latent), plain.decode_chunks(latent), strict=True))
        assert len(pairs) == -(-max(num_frames - 7, 0) // 7) + 1
        for ours, expected in pairs:
            assert not torch.equal(ours, expected), "it must have been the graph that ran"
            assert relative_error(ours, expected) < 1e-4


MAGI_COMPILER_STAND_IN = """
calls = []

def magi_compile(method, *, dynamic_arg_dims, model_tag):
    calls.append((dynamic_arg_dims, model_tag))
    return lambda *tensors: tuple(2 * x for x in method(*tensors))
"""
"""The package's interface for a bound method (SandAI-org/MagiCompiler, `magi_compiler/api.py`); it needs a GPU."""


@torch.inference_mode()
def test_magi_compiler_runs_where_it_is_asked_for(tmp_path, monkeypatch):
    model = lively(tiny_config("base"))
    expected = model(*inputs(model, [EXAMPLE]))
    with pytest.raises(CompileError, match="compiler is magi_compiler, which does not load: No module named"):
        compile_transformer(model, EXAMPLE, "magi_compiler")
    (tmp_path / "magi_compiler.py").write_text(MAGI_COMPILER_STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    compile_transformer(model, EXAMPLE, "magi_compiler")
    monkeypatch.delitem(sys.modules, "magi_compiler")
    for one, other in zip(model(*inputs(model, [EXAMPLE])), expected, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_without_a_compiler_nothing_is_changed():
    model = lively(tiny_config("base"))
    compile_transformer(model, EXAMPLE, "none")
    assert model.compiled is None


@pytest.mark.parametrize(
    "example", [SequenceLayout(2, 2, 6, 6, 9), SequenceLayout(5, 2, 2, 16, 9), SequenceLayout(4, 2, 2, 5, 5)], ids=str
)
def test_no_two_lengths_of_the_example_are_the_same(example):
    lengths = [len(tensor) for tensor in _example_inputs(lively(tiny_config("base")), example)]
    assert len({1, *lengths}) == 1 + len(lengths)


@pytest.fixture
def traced(monkeypatch):
    """Numbers of tokens that graphs were made for; nothing is compiled."""
    examples = []

    def take_down(function, example, open_dims, facts, cache):
        examples.append(len(example[4]))
        return function

    monkeypatch.setattr("model.compilation.load_or_compile", take_down)
    return examples


@torch.inference_mode()
def test_sequences_beyond_32_bits_have_a_graph_of_their_own(traced, monkeypatch):
    model = lively(tiny_config("base"))
    widest = max(
        module.weight.shape[0] // module.num_experts for module in model.modules() if hasattr(module, "num_experts")
    )
    monkeypatch.setattr("model.compilation._INT32_MAX", 100 * widest)
    compile_transformer(model, EXAMPLE, "torch")
    long = SequenceLayout(13, 4, 8, 15, 9)
    for layout, num_graphs in ((EXAMPLE, 1), (replace(EXAMPLE, num_text=60), 1), (long, 2), (long, 2), (EXAMPLE, 2)):
        model(*inputs(model, [layout]))
        assert len(traced) == num_graphs
    assert traced[0] <= 100 < traced[1]


def test_a_transformer_that_is_told_noise_levels_is_not_compiled(traced):
    model = lively(replace(tiny_config("base"), timestep_embedding=True))
    compile_transformer(model, EXAMPLE, "torch")
    assert model.compiled is None
    assert not traced


def test_a_full_disk_costs_the_graph_and_not_the_actor(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.graph_cache.os.replace", refuse)
    function = doubled(LocalCompileCache(tmp_path), what="full")
    x_NC, scale = torch.arange(15.0).view(5, 3), torch.full((3,), 2.0)
    torch.testing.assert_close(function(x_NC, scale), double(x_NC, scale))
    assert any("is not kept: [Errno 28] No space left" in record.getMessage() for record in caplog.records)
