"""Records the original's autoencoders, all in float32."""

from types import SimpleNamespace
from unittest import mock

import torch

from tests.recording.original import OnCpu
from tests.recording.sources import Source


@torch.no_grad()
def _record_turbo_vae(original: SimpleNamespace, source: Source) -> dict:
    config, tensors = source.config("turbo_vae"), source.inputs("turbo_vae")
    with OnCpu(widen=True):
        model = original.turbo.TurboVAED.from_config(config).eval()
        weights = source.weights("turbo_vae", model)
        model.load_state_dict(weights, strict=True)
        frames = {name.replace("latent", "frames"): model.decode(latent) for name, latent in tensors.items()}
    return {"turbo_vae_config": config, "turbo_vae_weights": weights, "turbo_vae_io": tensors | frames}


@torch.no_grad()
def _record_wan22_vae(original: SimpleNamespace, source: Source) -> dict:
    config, tensors = source.config("wan22_vae"), source.inputs("wan22_vae")
    renamed = {"temperal_downsample" if name == "temporal_downsample" else name: config[name] for name in config}
    model = original.wan.WanVAE_(**renamed).eval()
    weights = source.weights("wan22_vae", model)
    model.load_state_dict(weights, strict=True)
    with mock.patch.object(original.wan, "_video_vae", return_value=model):
        vae = original.wan.Wan2_2_VAE(device="cpu")
    outputs = {"mean": vae.mean, "std": vae.std}
    for name, pixels in tensors.items():
        latent = outputs[name.replace("pixels", "latent")] = vae.encode(pixels)
        outputs[name.replace("pixels", "decoded")] = model.decode(latent, vae.scale)
    return {"wan22_vae_config": config, "wan22_vae_weights": weights, "wan22_vae_io": tensors | outputs}


@torch.no_grad()
def _record_oobleck(original: SimpleNamespace, source: Source) -> dict:
    config, tensors = source.config("oobleck"), source.inputs("oobleck")
    model = original.oobleck.create_model_from_config(config).eval()
    weights = source.weights("oobleck", model)
    model.load_state_dict(weights, strict=True)
    waveform = model.decode(tensors["latent"])
    resampled = original.process.resample_audio_sinc(waveform.squeeze(0).T.numpy(), 441 / 512)
    outputs = {
        "waveform_51200hz": waveform,
        "waveform_44100hz": torch.from_numpy(resampled),
        "enc_mean_and_scale": model.encoder(tensors["enc_input"]),
    }
    return {"oobleck_config": config, "oobleck_weights": weights, "oobleck_io": tensors | outputs}


def record(original: SimpleNamespace, source: Source) -> dict:
    """Files of the three autoencoders by name: configuration, weights, inputs and outputs."""
    turbo_vae, wan22_vae = _record_turbo_vae(original, source), _record_wan22_vae(original, source)
    return turbo_vae | wan22_vae | _record_oobleck(original, source)
