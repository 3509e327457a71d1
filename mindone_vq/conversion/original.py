"""Checkpoints of microsoft/VQ-Diffusion: text (ITHQ, COCO, CUB, ...), ImageNet classes, FFHQ, and codecs alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import yaml

from mindone_vq import (
    ClassToImagePipeline,
    CLIPTokenizer,
    UnconditionalPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
)
from mindone_vq.conversion import infer
from mindone_vq.conversion.original_names import (
    CODEC,
    DENOISER,
    NOT_NEEDED,
    NOT_NEEDED_BESIDE_A_FIRST_STAGE,
    TEXT,
    reason_not_needed,
    rename,
)
from mindone_vq.conversion.plan import Component, ConversionError, Plan
from mindone_vq.weights.lazy import LazyTensor

Tensors = dict[str, LazyTensor]

CODEC_SETTINGS = {"norm_num_groups": 32, "act_fn": "silu"}  # fixed in their code
ACTIVATIONS = {"GELU2": "geglu-approximate", "GELU": "gelu"}
FIRST_STAGE = "first_stage_model."
CLIP_HEAD_WIDTH, CLIP_PADDING = 64, "!"  # the token of id 0
FAMILIES = {
    "Text2ImageTransformer": ("Transformer2DModel", VQDiffusionPipeline),
    "Condition2ImageTransformer": ("ClassTransformer2DModel", ClassToImagePipeline),
    "UnCondition2ImageTransformer": ("UnconditionalTransformer2DModel", UnconditionalPipeline),
}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader and the one tag of theirs."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A config of theirs, without executing anything.

    Raises:
        ConversionError: it is no YAML, or has a tag that is refused.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds no settings.")
    return content


def plan_original(
    model: Tensors,
    ema: Optional[Tensors],
    config: Mapping[str, Any],
    codec: Optional[Tensors] = None,
    codes: Optional[np.ndarray] = None,
    tokenizer: Optional[CLIPTokenizer] = None,
) -> Plan:
    """The conversion of a whole model of theirs.

    Args:
        model: the entry ``model`` of their file.
        ema: the entry ``ema``, laid over the denoiser and the text encoder; None: not.
        config: their YAML file.
        codec: the codec's own file, used where ``model`` has none.
        codes: their map from full to reduced codes, (full codes,) integers.
        tokenizer: of CLIP; needed for text.
    """
    settings = _settings(config)
    class_name, pipeline = FAMILIES[settings["family"]]
    weights = {**model, **{f"transformer.{key}": tensor for key, tensor in (ema or {}).items()}}
    taken = _Taken(weights)
    denoiser = _denoiser(taken, settings, class_name)
    components = [denoiser]
    if class_name == "Transformer2DModel":
        text_encoder = _text_encoder(taken)
        if tokenizer is None:
            raise ConversionError(
                "this model takes text, and CLIP's vocabulary is not in the file: pass --tokenizer with a folder, "
                "a hub id (openai/clip-vit-base-patch32) or their file bpe_simple_vocab_16e6.txt.gz."
            )
        if tokenizer.vocab_size != text_encoder.config["vocab_size"]:
            raise ConversionError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the text encoder "
                f"{text_encoder.config['vocab_size']}: it is another model's."
            )
        text_encoder.config["eos_token_id"] = tokenizer.eos_token_id
        text_encoder.config["bos_token_id"] = tokenizer.bos_token_id
        text_encoder.config["pad_token_id"] = tokenizer.pad_token_id
        components += [text_encoder, _null_text(taken)]
    components.append(_codec(taken, codec, codes, denoiser))
    unexplained = taken.rest()
    if unexplained:
        raise ConversionError(f"these entries of the checkpoint are not known: {', '.join(sorted(unexplained)[:20])}")
    scheduler = VQDiffusionScheduler(denoiser.config["num_vector_embeds"], denoiser.config["num_embeds_ada_norm"])
    return Plan(components, pipeline, scheduler, tokenizer, ignored=taken.ignored)


def plan_codec(tensors: Tensors) -> Plan:
    """The conversion of a codec's own file: ``ithq_vqvae.pth``, ``taming_f8_8192_openimages_last.pth`` and so on."""
    taken = _Taken(tensors)
    component = codec_component(_codec_tensors(taken), None)
    unexplained = taken.rest()
    if unexplained:
        raise ConversionError(f"these entries of the codec are not known: {', '.join(sorted(unexplained)[:20])}")
    return Plan([component], ignored=taken.ignored)


def is_original_codec(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether these are a codec's weights under their names."""
    return any(re.search(r"(^|\.)encoder\.down\.0\.block\.0\.conv1\.weight$", key) for key in tensors)


class _Taken:
    """The entries of a checkpoint, and which of them were explained."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.ignored: dict[str, str] = {}
        self.known: set[str] = set()
        beside = NOT_NEEDED_BESIDE_A_FIRST_STAGE if any(key.startswith(FIRST_STAGE) for key in tensors) else ()
        for key in tensors:
            reason = reason_not_needed(key, NOT_NEEDED + beside)
            if reason:
                self.ignored[key] = reason

    def under(self, prefix: str, rows: tuple, levels: int = 0) -> Tensors:
        """The entries under ``prefix`` that a row of the table is for, by their new names."""
        found = {}
        for key, tensor in self.tensors.items():
            name = rename(key[len(prefix) :], rows, levels) if key.startswith(prefix) else None
            if name is not None and key not in self.ignored:
                self.known.add(key)
                found[name] = tensor
        return found

    def take(self, key: str) -> Optional[LazyTensor]:
        """One entry, if it is there."""
        self.known.add(key)
        return self.tensors.get(key)

    def rest(self) -> set[str]:
        """What nothing explained."""
        return set(self.tensors) - self.known - set(self.ignored)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of their YAML is needed."""
    try:
        diffusion = config["model"]["params"]["diffusion_config"]["params"]
        transformer = diffusion["transformer_config"]["params"]
        family = diffusion["transformer_config"]["target"].rsplit(".", 1)[-1]
        wanted = {
            "family": family,
            "n_layer": transformer["n_layer"],
            "n_embd": transformer["n_embd"],
            "n_head": transformer["n_head"],
            "pixels": transformer["content_seq_len"],
            "diffusion_step": diffusion["diffusion_step"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"--config is not the config of a VQ-Diffusion model of theirs: it lacks {error}. Their repository has one "
            "for each model, in configs/ or OUTPUT/pretrained_model/."
        ) from error
    if family not in FAMILIES:
        raise ConversionError(f"--config names the transformer {family}; known are {', '.join(FAMILIES)}.")
    expected = {"timestep_type": "adalayernorm", "alpha_init_type": "alpha1"}
    given = {**diffusion, **transformer}
    for name, value in expected.items():
        if given.get(name, value) != value:
            raise ConversionError(f"--config has {name}: {given[name]}; only {value} is known.")
    if given.get("block_activate", "GELU") not in ACTIVATIONS:
        known = " and ".join(ACTIVATIONS)
        raise ConversionError(f"--config has block_activate: {given['block_activate']}; known are {known}.")
    return {
        **wanted,
        "activation_fn": ACTIVATIONS[given.get("block_activate", "GELU")],
        "dropout": transformer.get("resid_pdrop", 0.0),
        "mlp_hidden_times": transformer.get("mlp_hidden_times", 4),
        "class_number": transformer.get("class_number"),
    }


def _denoiser(taken: _Taken, settings: Mapping[str, Any], class_name: str) -> Component:
    tensors = taken.under("transformer.transformer.", DENOISER)
    if "latent_image_embedding.emb.weight" not in tensors:
        raise ConversionError("the checkpoint has no denoiser (transformer.transformer.*): is it a codec?")
    size = round(settings["pixels"] ** 0.5)
    if size * size != settings["pixels"]:
        raise ConversionError(f"--config has content_seq_len {settings['pixels']}, which is no square.")
    if class_name == "ClassTransformer2DModel":
        _complete_null_class(tensors, settings["class_number"])
    found = infer.recognise(tensors)
    if found != class_name:
        raise ConversionError(f"--config is that of a {class_name}, the checkpoint has a {found}.")
    given = {"num_attention_heads": settings["n_head"], "sample_size": size, "dropout": settings["dropout"]}
    if class_name == "Transformer2DModel":
        if settings["mlp_hidden_times"] != 4:
            raise ConversionError(
                f"--config has mlp_hidden_times {settings['mlp_hidden_times']}; for text only 4 is known."
            )
        given["activation_fn"] = settings["activation_fn"]
    elif settings["activation_fn"] != "geglu-approximate":
        raise ConversionError("--config has block_activate: GELU; with convolutions only GELU2 is known.")
    component = infer.component_of(tensors, given)
    told = {"num_layers": settings["n_layer"], "num_embeds_ada_norm": settings["diffusion_step"]}
    if class_name == "ClassTransformer2DModel":
        told["num_class_embeds"] = (settings["class_number"] or 0) + 1
    for name, value in told.items():
        if component.config[name] != value:
            raise ConversionError(
                f"--config says {value} for {name}, the checkpoint has {component.config[name]}: it is another model's."
            )
    width = tensors["latent_image_embedding.emb.weight"].shape[1]
    if width != settings["n_embd"]:
        raise ConversionError(f"--config says n_embd {settings['n_embd']}, the checkpoint has {width}.")
    return component


def _complete_null_class(tensors: Tensors, class_number: int) -> None:
    """Gives a table of the classes alone the null class that guidance needs: their mean, as their code takes it."""
    for key, tensor in list(tensors.items()):
        if key.endswith("norm3.emb.weight") and tensor.shape[0] == class_number:
            shape = (class_number + 1, tensor.shape[1])
            tensors[key] = tensor.cast("float32").then(lambda table: np.vstack([table, table.mean(0)]), shape)


def _text_encoder(taken: _Taken) -> Component:
    tensors = {}
    for name, tensor in taken.under("transformer.condition_emb.", TEXT).items():
        if ".in_proj." not in name:
            tensors[name] = tensor.cast("float32")
            continue
        third, rest = divmod(tensor.shape[0], 3)
        if rest:
            raise ConversionError(f"in_proj of the text encoder has {tensor.shape[0]} rows, which are no three parts.")
        for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
            piece = tensor.then(
                lambda whole, i=i, third=third: whole[i * third : (i + 1) * third], (third, *tensor.shape[1:])
            )
            tensors[name.replace("in_proj", part)] = piece.cast("float32")
    if not tensors:
        raise ConversionError("the checkpoint has no text encoder (transformer.condition_emb.*).")
    width = tensors["text_model.embeddings.token_embedding.weight"].shape[1]
    given = {"num_attention_heads": width // CLIP_HEAD_WIDTH, "hidden_act": "quick_gelu", "eos_token_id": -1}
    return infer.component_of(tensors, {**given, "projection_dim": width})


def _null_text(taken: _Taken) -> Component:
    learned = taken.take("transformer.empty_text_embed")
    if learned is None:
        return Component("LearnedClassifierFreeSamplingEmbeddings", {"learnable": False}, {})
    return infer.component_of({"embeddings": learned.cast("float32")}, {})


def _codec(
    taken: _Taken,
    codec: Optional[Tensors],
    codes: Optional[np.ndarray],
    denoiser: Component,
) -> Component:
    tensors = _codec_tensors(taken)
    if tensors and codec is not None:
        taken.ignored["--codec"] = "the checkpoint holds its own codec, which is the one it was trained with"
    if not tensors and codec is not None:
        own = _Taken(codec)
        tensors = _codec_tensors(own)
        if own.rest():
            raise ConversionError(f"these entries of the codec are not known: {', '.join(sorted(own.rest())[:20])}")
        taken.ignored.update(own.ignored)
    if not tensors:
        raise ConversionError("the checkpoint has no codec (content_codec.*): pass its own file with --codec.")
    _check_codec(tensors)
    predicted = denoiser.config["num_vector_embeds"] - 1
    full = tensors["quantize.embedding.weight"].shape[0]
    if full != predicted and codes is None:
        raise ConversionError(
            f"the codec has {full} codes, the denoiser predicts {predicted} of them: pass their map of codes with "
            "--codes (help_folder/statistics/taming_vqvae_*.pt)."
        )
    if full == predicted:
        if codes is not None:
            taken.ignored["--codes"] = "the denoiser predicts every code of the codec"
        codes = None
    elif codes.shape != (full,):
        raise ConversionError(f"--codes maps {codes.shape} codes, the codec has {full}: it is another model's.")
    component = codec_component(tensors, codes)
    if codes is not None and int(codes.max()) + 1 != predicted:
        raise ConversionError(f"--codes has {int(codes.max()) + 1} reduced codes, the denoiser predicts {predicted}.")
    downscale = 2 ** (len(component.config["block_out_channels"]) - 1)
    component.config["sample_size"] = denoiser.config["sample_size"] * downscale
    return component


def _codec_tensors(taken: _Taken) -> Tensors:
    """The codec's weights by their new names, wherever they lie in the checkpoint."""
    prefixes = ("content_codec.enc.", "content_codec.dec.", "content_codec.", FIRST_STAGE, "")
    levels = len({m.group(1) for key in taken.tensors if (m := re.search(r"decoder\.up\.(\d+)\.", key))})
    tensors: Tensors = {}
    for prefix in prefixes:
        for name, tensor in taken.under(prefix, CODEC, levels).items():
            if name in tensors and not np.array_equal(tensors[name].read(), tensor.read()):
                raise ConversionError(f"the checkpoint has two different weights for {name} of its codec.")
            tensors.setdefault(name, tensor)
    squeezed = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")
    return {
        name: tensor.then(lambda w: w[:, :, 0, 0], tensor.shape[:2])
        if squeezed.search(name) and tensor.shape[2:] == (1, 1)
        else tensor
        for name, tensor in tensors.items()
    }


def codec_component(tensors: Tensors, codes: Optional[np.ndarray]) -> Component:
    """The VQ-VAE; with ``codes`` its codebook in the order of the reduced codes."""
    _check_codec(tensors)
    if codes is not None:
        order = reduced_first(codes)
        for name in ("quantize.embedding.weight", "quantize.proj.weight", "quantize.proj.bias"):
            if name in tensors:
                tensors[name] = tensors[name].then(lambda rows: rows[order])
    return infer.component_of(tensors, CODEC_SETTINGS)


def _check_codec(tensors: Tensors) -> None:
    if "quantize.embedding.weight" not in tensors or "encoder.conv_in.weight" not in tensors:
        raise ConversionError("this is not a whole codec: it lacks its encoder or its codebook.")


def reduced_first(codes: np.ndarray) -> np.ndarray:
    """The full codes in a new order: those of reduced codes 0, 1, ... first, then those that no reduced code has.

    A reduced code is that of the first full code mapped to it, as in their code; of all others, which are mapped to 0
    because the training pictures never had them, only that is known.

    Args:
        codes: (full codes,) integers, full -> reduced.

    Raises:
        ConversionError: it is no such map.
    """
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or codes.min(initial=0) < 0:
        raise ConversionError(f"--codes holds {codes.dtype} of shape {codes.shape}, expected a row of codes.")
    reduced, first = np.unique(codes, return_index=True)
    if not np.array_equal(reduced, np.arange(len(reduced))):
        raise ConversionError("--codes leaves out reduced codes: it is no map of codes.")
    unused = np.setdiff1d(np.arange(len(codes)), first)
    if codes[unused].any():
        raise ConversionError("--codes maps several codes to one that is not 0, which is not known.")
    return np.concatenate([first, unused])


def clip_tokenizer(lines: list[str], vocab_size: int) -> CLIPTokenizer:
    """CLIP's tokenizer from its list of merges, bpe_simple_vocab_16e6.txt.

    Args:
        lines: of the file; the first is a title.
        vocab_size: of the text encoder, which decides how many of the merges are used.
    """
    letters = [chr(point) for point in _BYTES_AS_LETTERS]
    merges = [tuple(line.split()) for line in lines[1 : vocab_size - 2 * len(letters) - 2 + 1]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    if len(tokens) != vocab_size or any(len(pair) != 2 for pair in merges):
        raise ConversionError(f"the list of merges does not give {vocab_size} tokens: it is not CLIP's.")
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, pad_token=CLIP_PADDING)


def _bytes_as_letters() -> list[int]:
    """For each byte, printable ones first, the code point of the letter that stands for it (GPT-2's byte encoding)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + i for i in range(256 - len(printable))]


_BYTES_AS_LETTERS = _bytes_as_letters()
