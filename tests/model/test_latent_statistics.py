import torch

from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD, denormalise
from model.parity.report import relative_error


def test_denormalise_computes_in_float32():
    latent = torch.randn(1, 48, 2, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    mean, std = (torch.tensor(values).view(1, 48, 1, 1, 1) for values in (WAN22_LATENT_MEAN, WAN22_LATENT_STD))
    z = denormalise(latent)
    assert z.dtype == torch.bfloat16
    assert relative_error(z, latent.double() * std + mean) < 2**-8
    # bf16 arithmetic would round three times; float32 rounds once, so at least 99 % are the nearest bf16 number.
    assert (z == (latent.double() * std + mean).bfloat16()).double().mean() > 0.99
