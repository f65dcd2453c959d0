import pytest
import torch

from model.transformer import Transformer, TransformerConfig


def test_full_size_stores_blocks_in_bf16_and_the_rest_in_fp32():
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    sizes = {torch.bfloat16: 0, torch.float32: 0}
    for name, parameter in model.named_parameters():
        is_linear = name.startswith("block.") and not name.endswith("norm.weight")
        assert parameter.dtype == (torch.bfloat16 if is_linear else torch.float32), name
        sizes[parameter.dtype] += parameter.numel()
    assert sum(sizes.values()) / 1e9 == pytest.approx(15.3, abs=0.05)
