"""Records the original's Transformer, samplers and noise schedules."""

from types import SimpleNamespace

import torch
from torch import nn

from tests.recording.original import OnCpu, replayed_noise
from tests.recording.sources import RUNS, Source, Tensors


def build_dit(original: SimpleNamespace, config: dict, style: str) -> nn.Module:
    """The original's Transformer for base generation ("base") or super-resolution ("sr"), without its weights."""
    local = config["local_attn_layers_sr" if style == "sr" else "local_attn_layers"]
    heads = {"num_heads_q": config["hidden_size"] // config["head_dim"], "num_heads_kv": config["num_query_groups"]}
    settings = original.config.ModelConfig(**config | heads | {"local_attn_layers": local})
    return original.dit.DiTModel(settings).eval()


def build_packing(original: SimpleNamespace, config: dict, style: str) -> object:
    """What turns a clip into tokens; for base generation with the default window, which is computed but never used."""
    settings = original.config.DataProxyConfig()
    if style == "sr":
        settings.coords_style, settings.frame_receptive_field = "v1", config["frame_receptive_field_sr"]
    return original.packing.MagiDataProxy(settings)


@torch.no_grad()
def forward_once(original: SimpleNamespace, model: nn.Module, packing: object, clip: Tensors) -> Tensors:
    packed = packing.process_input(
        original.generate.EvalInput(
            x_t=clip["video"],
            audio_x_t=clip["audio"],
            audio_feat_len=[clip["audio"].shape[1]],
            txt_feat=clip["text"],
            txt_feat_len=[clip["text"].shape[1]],
        )
    )
    tokens, coords, modality, _, window = packed
    out_video, out_audio = packing.process_output(model(*packed))
    return {
        "tokens": tokens,
        "coords": coords,
        "modality": modality,
        "q_ranges": window.q_ranges,
        "k_ranges": window.k_ranges,
        "rope": model.adapter.rope(coords),
        "out_video": out_video,
        "out_audio": out_audio,
    }


def sample(original: SimpleNamespace, evaluator: object, inputs: Tensors, run: str) -> Tensors:
    how = RUNS[run]
    evaluator.config = evaluator.config.model_copy(
        update={"cfg_number": how["forwards"], "sr_cfg_number": how["forwards"]}
    )
    draws = [inputs[name] for name in sorted(inputs) if name.startswith(f"{run}.noise.")]
    with replayed_noise(original, draws):
        video, audio = evaluator.evaluate_with_latent(
            inputs["text"],
            inputs["text"].shape[1],
            inputs["image"] if "image" in how else None,
            inputs["video"].clone(),
            inputs["audio"].clone(),
            how["steps"],
            is_a2v="audio_driven" in how,
            use_sr_model="sr" in how,
        )
    return {f"{run}.video": video.clone(), f"{run}.audio": audio.clone()}


def build_evaluator(original: SimpleNamespace, config: dict, models: dict, inputs: Tensors) -> object:
    """The original's sampler; its constructor would load every model of the release, so it is filled by hand."""
    evaluator = original.generate.MagiEvaluator.__new__(original.generate.MagiEvaluator)
    settings = original.config.EvaluationConfig()
    vars(evaluator).update(
        dict(settings),
        config=settings,
        device="cpu",
        model=models["base"],
        sr_model=models["sr"],
        data_proxy=build_packing(original, config, "base"),
        sr_data_proxy=build_packing(original, config, "sr"),
        context_null=inputs["text_null"],
        original_context_null_len=inputs["text_null"].shape[1],
    )
    return evaluator


def _record_dit(original: SimpleNamespace, source: Source) -> dict:
    config = source.config("dit")
    weights = source.weights("dit", build_dit(original, config, "base"))
    files = {"dit_config": config, "dit_weights": weights}
    forward_inputs, sampling_inputs = source.inputs("dit_forward"), source.inputs("sampling")
    clips = sorted({name.split(".")[0] for name in forward_inputs})
    for precision, widen in (("fp32", True), ("bf16", False)):
        forward, sampled = dict(forward_inputs), dict(sampling_inputs)
        with OnCpu(widen):
            models = {style: build_dit(original, config, style) for style in ("base", "sr")}
            for style, model in models.items():
                model.load_state_dict(weights, strict=True)
                packing = build_packing(original, config, style)
                for clip in clips:
                    parts = {name: forward_inputs[f"{clip}.{name}"] for name in ("video", "audio", "text")}
                    outputs = forward_once(original, model, packing, parts)
                    forward |= {f"{clip}.{style}.{name}": tensor for name, tensor in outputs.items()}
            evaluator = build_evaluator(original, config, models, sampling_inputs)
            for run in RUNS:
                sampled |= sample(original, evaluator, sampling_inputs, run)
        files |= {f"dit_forward_{precision}": forward, f"sampling_{precision}": sampled}
    return files


def _record_schedules(original: SimpleNamespace) -> dict:
    tables = {"zerosnr.sigmas": original.generate.ZeroSNRDDPMDiscretization()(1000, do_append_zero=False, flip=True)}
    for num_steps in (4, 5, 8, 32):
        scheduler = original.scheduler.FlowUniPCMultistepScheduler()
        scheduler.set_timesteps(num_steps, device="cpu", shift=original.config.EvaluationConfig().shift)
        tables |= {f"flow.{num_steps}.sigmas": scheduler.sigmas, f"flow.{num_steps}.timesteps": scheduler.timesteps}
    return {"schedules": tables}


def record(original: SimpleNamespace, source: Source) -> dict:
    """Files of the Transformer, the samplers and the schedules by name."""
    return _record_dit(original, source) | _record_schedules(original)
