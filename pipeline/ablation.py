"""What the parts of the base model are worth: variants trained under one budget and judged on held-out clips."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, pairwise
from statistics import mean
from typing import Any

import ray
import torch

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.row import unpack
from actors.small_world.listening import WordRecogniser
from actors.small_world.shards import NEGATIVE_PROMPT_FILE, read_column
from actors.small_world.speech import PITCH, SPEED_WPM, speak
from actors.small_world.vocabulary import WORDS
from actors.storage import join, list_names, read_bytes, write_atomically
from actors.training.held_out import HeldOut, held_out_figures
from actors.training.recipe import BaseRecipe, RecipeError, load_recipe
from model.inspection import check_components
from model.sampling import GuidedSampling
from pipeline.provenance import claim, component_fingerprints, read_made_from
from pipeline.side_by_side import side_by_side
from pipeline.training import TrainingSpec, train

VARIANTS: dict[str, dict[str, Any]] = {
    "as the release": {},
    "without sandwich": {"network.expert_layers": []},
    "without gates": {"network.attention_gates": False},
    "with timestep": {"network.timestep_embedding": True},
}
"""Name to what is changed in the recipe."""

FIGURES_NAME = "figures.json"
"""In a run's folder: what its held-out clips say, once they are judged."""


@dataclass(frozen=True)
class Ablation:
    """What is compared, and how.

    Attributes:
        recipe_url: of the base model.
        data_url: latents to train on.
        held_out_url: latents to judge by, of another seed.
        checkpoint: has the audio autoencoder.
        output_url: folder of everything that is made.
        num_steps: budget of every variant.
        seeds: of the runs of every variant, each once.
        num_clips: held-out clips to judge by.
        num_cpus: runs at a time, with one process each.
        sampling: how clips are made.
    """

    recipe_url: str
    data_url: str
    held_out_url: str
    checkpoint: CheckpointSource
    output_url: str
    num_steps: int
    seeds: tuple[int, ...]
    num_clips: int
    num_cpus: int
    sampling: GuidedSampling


@dataclass(frozen=True)
class VariantRun:
    """One trained variant.

    Attributes:
        variant: of `VARIANTS`.
        seed: of the run.
        num_parameters: of the network.
        seconds_per_step: of one process with one thread, other runs beside it.
        curve: step and training loss, means over some steps.
        figures: on held-out clips.
    """

    variant: str
    seed: int
    num_parameters: int
    seconds_per_step: float
    curve: tuple[tuple[int, float], ...]
    figures: HeldOut


def run_ablation(ablation: Ablation, tell: Callable[[str], None]) -> list[VariantRun]:
    """Train and judge every variant with every seed; what is done is kept, as with any training.

    Args:
        ablation: see there.
        tell: takes lines of progress.

    Raises:
        RecipeError: the recipe is no base model's, or does not fit the data.
        ValueError: held-out clips are too few or among those that are trained on, a seed comes twice, or the output
            folder holds another ablation.
        CheckpointError: the checkpoint's audio autoencoder is absent or not sound.
        SpeechError: espeak-ng cannot be run.
        StorageError: the store refuses or is out of reach.
    """
    _check(ablation)

    def one(job: tuple[str, int]) -> VariantRun:
        run = _run(ablation, *job)
        tell(f"{run.variant}, seed {run.seed}: {run.figures.word_accuracy:.1%} of words right")
        return run

    jobs = [(variant, seed) for seed in ablation.seeds for variant in VARIANTS]
    return side_by_side([partial(one, job) for job in jobs], ablation.num_cpus)


def _check(ablation: Ablation) -> None:
    """Find what would end an ablation after an hour of training before it begins."""
    if len(set(ablation.seeds)) < len(ablation.seeds):
        raise ValueError(f"seeds must differ, got {', '.join(map(str, ablation.seeds))}")
    held_out = list(islice(read_column(ablation.held_out_url, "id"), ablation.num_clips))
    if len(held_out) < ablation.num_clips:
        allowed = f"at most {len(held_out)}, the clips in {ablation.held_out_url}"
        raise ValueError(f"num_clips must be {allowed}, got {ablation.num_clips}")
    if known := sorted(set(held_out) & set(read_column(ablation.data_url, "id"))):
        raise ValueError(f"{ablation.held_out_url} must hold no clip of {ablation.data_url}, it holds {known[0]}")
    check_components(open_checkpoint(ablation.checkpoint.url), ("audio_vae",))
    speak(WORDS[0], "woman", SPEED_WPM, PITCH)
    judged_by = {
        "held_out": read_made_from(ablation.held_out_url),
        "num_clips": ablation.num_clips,
        "sampling": asdict(ablation.sampling),
        "checkpoint": component_fingerprints(ablation.checkpoint.url, "audio_vae"),
    }
    claim(ablation.output_url, judged_by)


def _run(ablation: Ablation, variant: str, seed: int) -> VariantRun:
    budget = {"training.optimiser.num_steps": ablation.num_steps, "seed": seed}
    recipe = load_recipe(ablation.recipe_url, budget | VARIANTS[variant])
    if not isinstance(recipe, BaseRecipe):
        raise RecipeError(f"recipe {ablation.recipe_url}: stage must be base, got {recipe.stage}")
    folder_url = join(ablation.output_url, f"{variant.replace(' ', '-')}-{seed}")
    trained = CheckpointSource(join(folder_url, "checkpoint"), ablation.checkpoint.cache_dir)
    history = train(TrainingSpec(recipe, ablation.data_url, trained, folder_url))
    if FIGURES_NAME not in list_names(folder_url):
        found = ray.get(ray.remote(_judge).options(num_cpus=1).remote(ablation, trained))
        write_atomically(join(folder_url, FIGURES_NAME), json.dumps(found).encode())
    num_parameters, figures = json.loads(read_bytes(join(folder_url, FIGURES_NAME)))
    steps = [0, *(int(row["step"]) for row in history)]
    seconds = sum(row["step_s"] * (step - before) for row, (before, step) in zip(history, pairwise(steps), strict=True))
    curve = tuple((int(row["step"]), row["loss"]) for row in history)
    return VariantRun(variant, seed, num_parameters, seconds / steps[-1], curve, HeldOut(**figures))


def _judge(ablation: Ablation, trained: CheckpointSource) -> tuple[int, dict[str, float]]:
    """Runs in a worker; gives the number of parameters and the figures."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    transformer = trained.fetch("base").transformer("base", torch.float32, cpu)
    negative_text = unpack(read_bytes(join(ablation.data_url, NEGATIVE_PROMPT_FILE)))["text"]
    figures = held_out_figures(
        transformer,
        ablation.held_out_url,
        ablation.num_clips,
        negative_text.float().unsqueeze(0),
        ablation.sampling,
        ablation.checkpoint.fetch("audio_vae").audio_decoder(cpu),
        WordRecogniser.of_small_world(1),
    )
    return sum(parameter.numel() for parameter in transformer.parameters()), asdict(figures)


def write_ablation(ablation: Ablation, runs: Sequence[VariantRun]) -> None:
    """Write `ablation.json`, the table `ablation.md` and the plot `ablation.png` into the output's folder."""
    facts = {
        "num_steps": ablation.num_steps,
        "seeds": ablation.seeds,
        "sampling": asdict(ablation.sampling),
        "runs": [asdict(run) for run in runs],
    }
    write_atomically(join(ablation.output_url, "ablation.json"), json.dumps(facts, indent=1).encode())
    table = [f"| {' | '.join(cells)} |" for cells in ablation_table(runs)]
    table.insert(1, "|---" * len(ablation_table(runs)[0]) + "|")
    write_atomically(join(ablation.output_url, "ablation.md"), ("\n".join(table) + "\n").encode())
    write_atomically(join(ablation.output_url, "ablation.png"), draw_ablation(runs))


def ablation_table(runs: Sequence[VariantRun]) -> list[list[str]]:
    """Header and a row per variant: means over its seeds, and between which values they lie."""
    rows = [["variant", "parameters", "s/step", "video loss", "audio loss", "words", "language"]]
    for variant, own in _by_variant(runs).items():
        figures = [run.figures for run in own]
        rows.append(
            [
                variant,
                f"{own[0].num_parameters / 1e6:.2f} M",
                f"{mean(run.seconds_per_step for run in own):.2f}",
                _spread([one.video_loss for one in figures], "{:.4f}"),
                _spread([one.audio_loss for one in figures], "{:.4f}"),
                _spread([one.word_accuracy for one in figures], "{:.1%}"),
                _spread([one.language_accuracy for one in figures], "{:.1%}"),
            ]
        )
    return rows


def draw_ablation(runs: Sequence[VariantRun]) -> bytes:
    """Plot training loss over steps, and words and languages that are right; returns a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, words = figure.subplots(1, 2)
    for number, (variant, own) in enumerate(_by_variant(runs).items()):
        for run in own:
            label = variant if run is own[0] else None
            losses.plot(*zip(*run.curve, strict=True), color=f"C{number}", label=label, alpha=0.8)
        words.bar(number, mean(run.figures.word_accuracy for run in own), color=f"C{number}", alpha=0.8)
        words.plot([number] * len(own), [run.figures.word_accuracy for run in own], "k.")
    losses.set(title="training loss", xlabel="step", yscale="log")
    losses.legend(frameon=False)
    words.set(title="right words on held-out prompts", ylim=(0, 1))
    words.set_xticks(range(len(_by_variant(runs))), list(_by_variant(runs)))
    for axes in (losses, words):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _by_variant(runs: Sequence[VariantRun]) -> Mapping[str, list[VariantRun]]:
    return {variant: own for variant in VARIANTS if (own := [run for run in runs if run.variant == variant])}


def _spread(values: Sequence[float], form: str) -> str:
    middle = form.format(mean(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"
