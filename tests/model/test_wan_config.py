from dataclasses import replace

import pytest

from model.latent_statistics import WAN22_LATENT_MEAN
from model.wan_config import WanVaeConfig
from model.wan_vae import empty_wan_vae, wan_tensor_shapes

ORIGINAL = {
    "dim": 160,
    "dec_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temporal_downsample": [False, True, True],
}


def test_release_is_the_default_of_every_source():
    assert WanVaeConfig.from_original(ORIGINAL) == WanVaeConfig()
    assert WanVaeConfig.from_diffusers(dict(empty_wan_vae(WanVaeConfig()).config)) == WanVaeConfig()
    for naming in ("original", "diffusers"):
        assert WanVaeConfig.from_shapes(wan_tensor_shapes(WanVaeConfig(), "whole", naming)) == WanVaeConfig()
    assert WanVaeConfig().spatial_compression == 16


def test_other_sizes_survive_the_way_through_diffusers():
    config = WanVaeConfig(3, 5, 4, (1, 2, 2), 1, (True, False), (0.5,) * 4, (2.0,) * 4)
    assert WanVaeConfig.from_diffusers(dict(empty_wan_vae(config).config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_residual": False}, "is_residual of the Wan 2.2 VAE must be True, got False"),
        ({"patch_size": None}, "patch_size of the Wan 2.2 VAE must be 2, got None"),
        ({"in_channels": 3}, "in_channels of the Wan 2.2 VAE must be 12, got 3"),
        ({"attn_scales": [0.5]}, r"attn_scales of the Wan 2.2 VAE must be \[\], got \[0.5\]"),
        ({"scale_factor_spatial": 8}, "scale_factor_spatial of the Wan 2.2 VAE must be 16, .* got 8"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal of the Wan 2.2 VAE must be 4, .* got 8"),
        ({"base_dim": None}, r"Wan 2.2 VAE config lacks \['base_dim'\]"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, got 0"),
        ({"temperal_downsample": [True]}, "temporal_downsample must have 3 entries, got 1"),
        ({"z_dim": 16}, "latent_mean must have 16 entries, got 48"),
    ],
)
def test_config_names_what_is_wrong(change, message):
    raw = dict(empty_wan_vae(WanVaeConfig()).config) | change
    with pytest.raises(ValueError, match=message):
        WanVaeConfig.from_diffusers(raw)


def test_statistics_belong_to_the_latent():
    with pytest.raises(ValueError, match="latent_std must have 48 entries, got 2"):
        replace(WanVaeConfig(), latent_mean=WAN22_LATENT_MEAN, latent_std=(1.0, 1.0))
