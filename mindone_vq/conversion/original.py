"""Checkpoints of microsoft/VQ-Diffusion: text (ITHQ, COCO, CUB, ...), ImageNet classes, FFHQ, and codecs alone."""

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
from mindone_vq.conversion.original_codec import check_codec, codec_component, codec_tensors
from mindone_vq.conversion.original_names import DENOISER, TEXT, Entries
from mindone_vq.conversion.plan import Component, ConversionError, Plan
from mindone_vq.weights.lazy import LazyTensor

Tensors = dict[str, LazyTensor]

ACTIVATIONS = {"GELU2": "geglu-approximate", "GELU": "gelu"}
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
    taken = Entries(weights)
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


def _denoiser(taken: Entries, settings: Mapping[str, Any], class_name: str) -> Component:
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


def _text_encoder(taken: Entries) -> Component:
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


def _null_text(taken: Entries) -> Component:
    learned = taken.take("transformer.empty_text_embed")
    if learned is None:
        return Component("LearnedClassifierFreeSamplingEmbeddings", {"learnable": False}, {})
    return infer.component_of({"embeddings": learned.cast("float32")}, {})


def _codec(
    taken: Entries,
    codec: Optional[Tensors],
    codes: Optional[np.ndarray],
    denoiser: Component,
) -> Component:
    tensors = codec_tensors(taken)
    if tensors and codec is not None:
        taken.ignored["--codec"] = "the checkpoint holds its own codec, which is the one it was trained with"
    if not tensors and codec is not None:
        own = Entries(codec)
        tensors = codec_tensors(own)
        if own.rest():
            raise ConversionError(f"these entries of the codec are not known: {', '.join(sorted(own.rest())[:20])}")
        taken.ignored.update(own.ignored)
    if not tensors:
        raise ConversionError("the checkpoint has no codec (content_codec.*): pass its own file with --codec.")
    check_codec(tensors)
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
