"""Which files of a checkpoint make which component, in every folder layout that is public.

- The release's own: `base`, `distill`, `540p_sr`, `1080p_sr`, `turbo_vae` of GAIR/daVinci-MagiHuman beside
  `t5gemma-9b-9b-ul2`, `stable-audio-open-1.0` and `Wan2.2-TI2V-5B`, each under the name its repository has.
- One folder with `model_index.json`: `transformer`, `sr` (or `sr_transformer`), `vae`, `audio_vae`, `text_encoder`.
- Several such folders side by side: `base/transformer`, `sr_540p/sr_transformer`, ...

Weights are one or several safetensors, each possibly packed as `.zst`; the autoencoders also come in the formats of
their own repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from model.checkpoint_files import CheckpointError, CheckpointFiles, read_json
from model.text_encoder import TOKENIZER_FILES, is_encoder_tensor
from model.variants import VARIANTS

COMPONENTS = (*VARIANTS, "text_encoder", "wan_vae", "audio_vae", "turbo_vae")
MODEL_INDEX = "model_index.json"
CONFIG_NAME = "config.json"
CONFIG_KEYS = ("pixel_sizes", "min_seconds", "max_seconds", "default_seconds", "conditions", "sampling")
"""Of `config.json` at the root, see `model.capabilities`."""
"""At the root: what the checkpoint can be asked for, see `model.capabilities`."""
PACKED_SUFFIX = ".zst"

_FOLDERS = {
    "base": ("base", "base/transformer"),
    "distill": ("distill", "distill/transformer"),
    "sr_540p": ("540p_sr", "sr_540p/sr_transformer"),
    "sr_1080p": ("1080p_sr", "sr_1080p/sr_transformer"),
    "text_encoder": ("t5gemma-9b-9b-ul2", "text_encoder"),
    "wan_vae": ("Wan2.2-TI2V-5B", "Wan2.2-TI2V-5B-Diffusers/vae", "Wan2.2-TI2V-5B/vae", "vae"),
    "audio_vae": ("stable-audio-open-1.0", "stable-audio-open-1.0/vae", "audio_vae"),
    "turbo_vae": ("turbo_vae",),
}
"""Folders that may hold a component, the release's own name first."""


@dataclass(frozen=True)
class ComponentFiles:
    """The files that one component is read from, as paths relative to the checkpoint.

    Attributes:
        folder: where they lie.
        weights: safetensors (possibly packed), or one PyTorch file.
        config: JSON file that describes the network, where there is one.
        others: what else is needed: the shards' index, the tokenizer.
        tokenizer_folder: of the text encoder.
    """

    folder: str
    weights: tuple[str, ...]
    config: str | None = None
    others: tuple[str, ...] = ()
    tokenizer_folder: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        """Every file."""
        return (*self.weights, *([self.config] if self.config else []), *self.others)


@dataclass(frozen=True)
class Layout:
    """Where the components of a checkpoint are.

    Attributes:
        name: of the layout, for people.
        components: what was found.
        problems: component to the reason why it cannot be read, for components of which there is something.
        needed: components that a checkpoint of this layout is expected to have.
        remarks: how ambiguous folders were understood.
        config: the file at the root that says what can be asked for; None where the release's numbers hold.
    """

    name: str
    components: dict[str, ComponentFiles]
    problems: dict[str, str]
    needed: tuple[str, ...]
    remarks: tuple[str, ...] = field(default=())
    config: str | None = None

    def files(self, component: str) -> ComponentFiles:
        """Files of a component.

        Raises:
            CheckpointError: if it is absent or incomplete.
        """
        if component not in self.components:
            raise CheckpointError(f"{component}: {self.problems.get(component) or self.absence(component)}")
        return self.components[component]

    def absence(self, component: str) -> str:
        """Say where a component was looked for, and what else was found in its place."""
        folders = f"is absent, none of the folders {', '.join(_FOLDERS[component])} holds a file"
        return "; ".join([folders, *(self.remarks if component in VARIANTS else ())])

    def has(self, component: str) -> bool:
        """Whether all files of a component are there."""
        return component in self.components

    def is_absent(self, component: str) -> bool:
        """Whether nothing of a component is there; one that is incomplete is a fault instead."""
        return component not in self.components and component not in self.problems

    @property
    def video_decoder(self) -> str:
        """The component that makes pixels: the Turbo VAE, or the Wan 2.2 VAE in a layout that has no other.

        Where a Turbo VAE belongs and is absent, the pictures do not silently come from another network.
        """
        return "turbo_vae" if "turbo_vae" in (*self.needed, *self.components, *self.problems) else "wan_vae"

    def components_for(self, mode: str, resolution: str) -> tuple[str, ...]:
        """Components that every clip needs; one with a reference image needs `wan_vae` besides.

        Args:
            mode: "base" or "distill".
            resolution: "256p", "540p" or "1080p".
        """
        refining = () if resolution == "256p" else (f"sr_{resolution}",)
        return (mode, *refining, "text_encoder", self.video_decoder, "audio_vae")


def find_layout(files: CheckpointFiles) -> Layout:
    """Find the components by their files' names; of the contents only small JSON files are read.

    Raises:
        CheckpointError: nothing of a checkpoint is there, or `model_index.json` cannot be read.
    """
    folders = {part for name in files.sizes for part in _parents(name)}
    candidates = {component: [name for name in names if name in folders] for component, names in _FOLDERS.items()}
    remarks: list[str] = []
    is_one_folder = MODEL_INDEX in files.sizes
    needed: tuple[str, ...] = COMPONENTS
    if is_one_folder:
        roles, remarks = _one_folder_roles(files, folders)
        for component, folder in roles.items():
            candidates[component].append(folder)
        needed = (*roles, "text_encoder", "wan_vae", "audio_vae")
    components, problems = {}, {}
    for component in COMPONENTS:
        try:
            found = _first_complete(files, component, candidates[component])
        except CheckpointError as error:
            problems[component] = str(error)
        else:
            if found is not None:
                components[component] = found
    if not components and not problems:
        expected = ", ".join(names[0] for names in _FOLDERS.values())
        raise CheckpointError(f"this is no checkpoint, it holds neither {MODEL_INDEX} nor one of {expected}")
    name = f"one folder with {MODEL_INDEX}" if is_one_folder else "folders of the release"
    return Layout(name, components, problems, needed, tuple(remarks), _own_config(files))


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _one_folder_roles(files: CheckpointFiles, folders: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Tell which of the four Transformers `transformer` and `sr` are: their tensors look all alike."""
    index = read_json(files, MODEL_INDEX)
    about = f"{index.get('_class_name', '')} {files.url.rstrip('/').rpartition('/')[2]}".lower()
    if "cfg_number" in index:
        if type(index["cfg_number"]) is not int:
            raise CheckpointError(f"cfg_number in {MODEL_INDEX} must be a whole number, got {index['cfg_number']!r}")
        base, reason = "distill" if index["cfg_number"] == 1 else "base", f"cfg_number is {index['cfg_number']}"
    elif "distill" in about:
        base, reason = "distill", "the name of the folder or pipeline says so"
    else:
        base, reason = "base", f'nothing says that it is distilled ("cfg_number": 1 in {MODEL_INDEX} would)'
    roles, remarks = {base: "transformer"}, [f"transformer is taken as {base}: {reason}"]
    for folder in ("sr", "sr_transformer"):
        if folder in folders:
            config_name = f"{folder}/config.json"
            config = read_json(files, config_name) if config_name in files.sizes else {}
            if config.get("local_attn_layers") or config.get("local_attention_layers"):
                resolution, reason = "1080p", "its config has layers with local attention"
            elif "1080" in about:
                resolution, reason = "1080p", "the name of the folder or pipeline says so"
            else:
                resolution, reason = "540p", "its config has no layers with local attention"
            roles[f"sr_{resolution}"] = folder
            remarks.append(f"{folder} is taken as sr_{resolution}: {reason}")
            break
    return roles, remarks


def _first_complete(files: CheckpointFiles, component: str, folders: list[str]) -> ComponentFiles | None:
    first_error: CheckpointError | None = None
    for folder in folders:
        try:
            return _FINDERS[component](files, folder)
        except CheckpointError as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    return None


def _find_transformer(files: CheckpointFiles, folder: str) -> ComponentFiles:
    weights, others = _find_safetensors(files, folder)
    return ComponentFiles(folder, weights, _if_there(files, f"{folder}/config.json"), others)


def _find_text_encoder(files: CheckpointFiles, folder: str) -> ComponentFiles:
    weights, others = _find_safetensors(files, folder, is_encoder_tensor)
    config = _require(files, f"{folder}/config.json")
    return _with_tokenizer(files, ComponentFiles(folder, weights, config, others))


def _with_tokenizer(files: CheckpointFiles, found: ComponentFiles) -> ComponentFiles:
    folder, config = found.folder, found.config
    beside = f"{folder}/".rpartition("/")[0].rpartition("/")[0]
    for place in (folder, f"{beside}/tokenizer".lstrip("/")):
        small = [name for name in files.sizes if name.startswith(f"{place}/") and "/" not in name[len(place) + 1 :]]
        if any(name.rpartition("/")[2] in TOKENIZER_FILES for name in small):
            tokenizer = [name for name in small if name.endswith((".json", ".model", ".jinja")) and name != config]
            for name in tokenizer:
                if name.endswith(".json"):
                    read_json(files, name)
            return replace(found, others=tuple(sorted({*found.others, *tokenizer})), tokenizer_folder=place)
    raise CheckpointError(f"{folder} has no tokenizer: {' or '.join(TOKENIZER_FILES)} is missing")


def _find_wan_vae(files: CheckpointFiles, folder: str) -> ComponentFiles:
    if original := _if_there(files, f"{folder}/Wan2.2_VAE.pth"):
        return ComponentFiles(folder, (original,))
    if not f"/{folder}".endswith("/vae"):  # the repository's own folder holds the weights of another network besides
        raise CheckpointError(f"{folder}/Wan2.2_VAE.pth is missing")
    weights, others = _find_safetensors(files, folder)
    return ComponentFiles(folder, weights, _require(files, f"{folder}/config.json"), others)


def _find_audio_vae(files: CheckpointFiles, folder: str) -> ComponentFiles:
    config = _if_there(files, f"{folder}/model_config.json") or _if_there(files, f"{folder}/config.json")
    if config is None:
        raise CheckpointError(f"{folder}/model_config.json is missing")
    weights, others = _find_safetensors(files, folder)
    return ComponentFiles(folder, weights, config, others)


def _find_turbo_vae(files: CheckpointFiles, folder: str) -> ComponentFiles:
    def the_only(suffix: str, usual: str) -> str:
        found = [name for name in files.sizes if name.startswith(f"{folder}/") and name.endswith(suffix)]
        if f"{folder}/{usual}" in found or not found:
            return _require(files, f"{folder}/{usual}")
        if len(found) > 1:
            raise CheckpointError(f"{folder} holds several {suffix} files and none is called {usual}: {found}")
        return found[0]

    config = the_only(".json", "TurboV3-Wan22-TinyShallow_7_7.json")
    return ComponentFiles(folder, (the_only(".ckpt", "checkpoint-340000.ckpt"),), config)


_FINDERS: dict[str, Callable[[CheckpointFiles, str], ComponentFiles]] = {
    **dict.fromkeys(VARIANTS, _find_transformer),
    "text_encoder": _find_text_encoder,
    "wan_vae": _find_wan_vae,
    "audio_vae": _find_audio_vae,
    "turbo_vae": _find_turbo_vae,
}


def _find_safetensors(
    files: CheckpointFiles, folder: str, is_wanted: Callable[[str], bool] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Shards, and the index that names them; with `is_wanted` only shards that hold such a tensor."""
    for stem in ("model", "diffusion_pytorch_model"):
        single, index_name = f"{folder}/{stem}.safetensors", f"{folder}/{stem}.safetensors.index.json"
        if index_name in files.sizes:
            weight_map = _weight_map(files, index_name)
            shards = {shard for tensor, shard in weight_map.items() if is_wanted is None or is_wanted(tensor)}
            found = tuple(_shard(files, f"{folder}/{shard}", index_name) for shard in sorted(shards))
            return found, (index_name,)
        if single in files.sizes or single + PACKED_SUFFIX in files.sizes:
            return (_shard(files, single, ""),), ()
    inside = [name[len(folder) + 1 :] for name in files.sizes if name.startswith(f"{folder}/")]
    shown = f"{', '.join(inside[:5])}{', ...' if len(inside) > 5 else ''}"
    expected = "model.safetensors, diffusion_pytorch_model.safetensors or the index of its shards"
    raise CheckpointError(f"{folder} must hold {expected}, found {shown}")


def _weight_map(files: CheckpointFiles, index_name: str) -> dict[str, str]:
    weight_map: Any = read_json(files, index_name).get("weight_map")
    is_map = isinstance(weight_map, dict) and all(isinstance(shard, str) for shard in weight_map.values())
    if not weight_map or not is_map:
        raise CheckpointError(f"{index_name} has no weight_map of tensors to shards")
    return weight_map


def _shard(files: CheckpointFiles, name: str, index_name: str) -> str:
    if ".." in name.split("/"):
        raise CheckpointError(f"{index_name} names the shard {name}, which leaves the folder")
    for candidate in (name, name + PACKED_SUFFIX):
        if candidate in files.sizes:
            return candidate
    raise CheckpointError(f"shard {name} is missing, {index_name} names it")


def _own_config(files: CheckpointFiles) -> str | None:
    """`config.json` at the root, if it is ours: model hubs want one of theirs there, which has none of our keys."""
    if CONFIG_NAME not in files.sizes:
        return None
    try:
        values = read_json(files, CONFIG_NAME)
    except CheckpointError:
        return CONFIG_NAME  # its fault is told where it is used
    return CONFIG_NAME if any(key in values for key in CONFIG_KEYS) else None


def _if_there(files: CheckpointFiles, name: str) -> str | None:
    return name if name in files.sizes else None


def _require(files: CheckpointFiles, name: str) -> str:
    if name not in files.sizes:
        raise CheckpointError(f"{name} is missing")
    return name
