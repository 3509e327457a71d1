"""The networks that are converted: the keys that identify each, and the arguments that its weights determine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from mindone_vq import (
    ClassTransformer2DModel,
    CLIPTextModel,
    GumbelVQModel,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    UnconditionalTransformer2DModel,
    VQModel,
)
from mindone_vq.weights.config import named_class
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.pretrained import PretrainedCell

Tensors = Mapping[str, LazyTensor]
Inference = Callable[[Tensors], Any]


class ConversionError(ValueError):
    """A checkpoint cannot be converted with these options; the message says why and what to do."""


def size(key: str, axis: int) -> Inference:
    return lambda tensors: tensors[key].shape[axis]


def count(pattern: str) -> Inference:
    """The number of different values of the group in ``pattern``."""
    return lambda tensors: len({match[1] for key in tensors if (match := re.match(pattern, key))})


def has(pattern: str) -> Inference:
    return lambda tensors: any(re.match(pattern, key) for key in tensors)


LEVELS = count(r"encoder\.down_blocks\.(\d+)\.")


def block_types(blocks: str, name: str) -> Inference:
    """The type of each level: ``name``, with the prefix "Attn" where the level has attention."""
    attention = blocks + r"\.{}\.attentions\."
    return lambda t: [f"Attn{name}" if has(attention.format(i))(t) else name for i in range(LEVELS(t))]


ENCODER, CODEBOOK = "encoder.conv_in.weight", "quantize.embedding.weight"
FIRST_CONV = "encoder.down_blocks.{}.resnets.0.conv1.weight"
VQVAE: dict[str, Inference] = {
    "in_channels": size(ENCODER, 1),
    "out_channels": size("decoder.conv_out.weight", 0),
    "block_out_channels": lambda t: [size(FIRST_CONV.format(i), 0)(t) for i in range(LEVELS(t))],
    "down_block_types": block_types(r"encoder\.down_blocks", "DownEncoderBlock2D"),
    "up_block_types": block_types(r"decoder\.up_blocks", "UpDecoderBlock2D"),
    "layers_per_block": count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
    "latent_channels": size("encoder.conv_out.weight", 0),
    "num_vq_embeddings": size(CODEBOOK, 0),
    "vq_embed_dim": size(CODEBOOK, 1),
    "mid_block_add_attention": has(r"encoder\.mid_block\.attentions\."),
    "norm_type": lambda t: "spatial" if has(r"decoder\.conv_norm_out\.norm_layer\.")(t) else "group",
}

CODES = "latent_image_embedding.emb.weight"
BLOCK = "transformer_blocks.0."
CLASSES, CONV = f"{BLOCK}norm3.emb.weight", f"{BLOCK}ff.conv1.weight"
FEED_FORWARD = f"{BLOCK}ff.net.0.proj.weight"
WIDTH = size(CODES, 1)
IS_TIMED = has(r"transformer_blocks\.\d+\.norm1\.(emb|linear)\.")
DENOISER: dict[str, Inference] = {
    "num_layers": count(r"transformer_blocks\.(\d+)\."),
    "num_vector_embeds": size(CODES, 0),
    "inner_dim": WIDTH,  # not an argument: gives attention_head_dim
    "num_embeds_ada_norm": lambda t: t[f"{BLOCK}norm1.emb.weight"].shape[0] if IS_TIMED(t) else None,
}
TRANSFORMER: dict[str, Inference] = {
    **DENOISER,
    "sample_size": size("latent_image_embedding.height_emb.weight", 0),
    "cross_attention_dim": lambda t: t[key].shape[1] if (key := f"{BLOCK}attn2.to_k.weight") in t else None,
    "attention_bias": lambda t: f"{BLOCK}attn1.to_q.bias" in t,
    "norm_elementwise_affine": lambda t: f"{BLOCK}norm3.weight" in t,
    "norm_type": lambda t: "ada_norm" if IS_TIMED(t) else "layer_norm",
    "activation_fn": lambda t: "geglu" if t[FEED_FORWARD].shape[0] == 8 * WIDTH(t) else None,
}
CONVOLUTIONAL: dict[str, Inference] = {
    **DENOISER,
    "ff_mult": lambda t: t[CONV].shape[0] // WIDTH(t),
    "position_table_size": size("latent_image_embedding.height_emb.weight", 0),
}
TOKENS = "text_model.embeddings.token_embedding.weight"
TEXT_ENCODER: dict[str, Inference] = {
    "vocab_size": size(TOKENS, 0),
    "hidden_size": size(TOKENS, 1),
    "max_position_embeddings": size("text_model.embeddings.position_embedding.weight", 0),
    "intermediate_size": size("text_model.encoder.layers.0.mlp.fc1.weight", 0),
    "num_hidden_layers": count(r"text_model\.encoder\.layers\.(\d+)\."),
}
NULL_TEXT: dict[str, Inference] = {
    "learnable": lambda t: len(t["embeddings"].shape) == 2,
    "length": lambda t: t["embeddings"].shape[0] if len(t["embeddings"].shape) == 2 else None,
    "hidden_size": lambda t: t["embeddings"].shape[1] if len(t["embeddings"].shape) == 2 else None,
}


@dataclass(frozen=True)
class Network:
    """One row of ``NETWORKS``.

    Attributes:
        keys: of a state dict of this class, and of no class in the rows below.
        inferred: the arguments that the shapes of the weights determine.
        undecided: the arguments that they do not determine, with their values in the published model.
        published: the sizes that identify the published model; None: there is none.
    """

    kind: type[PretrainedCell]
    folder: str
    keys: set[str]
    inferred: dict[str, Inference]
    undecided: dict[str, Any] = field(default_factory=dict)
    published: Optional[dict[str, Any]] = None


VQVAE_UNDECIDED = {"norm_num_groups": 32, "act_fn": "silu"}
GRID_UNDECIDED = {"num_attention_heads": None, "sample_size": None}
TRANSFORMER_UNDECIDED = {"num_attention_heads": 16, "activation_fn": "geglu-approximate"}
TEXT_UNDECIDED = {"num_attention_heads": 8, "hidden_act": "quick_gelu", "eos_token_id": 49407}
VQVAE_SIZES = {"block_out_channels": [64, 128, 256, 512], "num_vq_embeddings": 4096, "vq_embed_dim": 128}
TRANSFORMER_SIZES = {"num_layers": 36, "cross_attention_dim": 512, "num_vector_embeds": 4097, "inner_dim": 1408}
TEXT_SIZES = {"vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12}
OF_CLASSES = {**CONVOLUTIONAL, "num_class_embeds": size(CLASSES, 0)}
NULL_FOLDER = "learned_classifier_free_sampling_embeddings"
ROWS = (
    Network(GumbelVQModel, "vqvae", {ENCODER, "quantize.proj.weight"}, VQVAE, VQVAE_UNDECIDED),
    Network(VQModel, "vqvae", {ENCODER, CODEBOOK}, VQVAE, VQVAE_UNDECIDED, VQVAE_SIZES),
    Network(ClassTransformer2DModel, "transformer", {CODES, CLASSES}, OF_CLASSES, GRID_UNDECIDED),
    Network(UnconditionalTransformer2DModel, "transformer", {CODES, CONV}, CONVOLUTIONAL, GRID_UNDECIDED),
    Network(Transformer2DModel, "transformer", {CODES}, TRANSFORMER, TRANSFORMER_UNDECIDED, TRANSFORMER_SIZES),
    Network(CLIPTextModel, "text_encoder", {TOKENS}, TEXT_ENCODER, TEXT_UNDECIDED, TEXT_SIZES),
    Network(LearnedClassifierFreeSamplingEmbeddings, NULL_FOLDER, {"embeddings"}, NULL_TEXT),
)
NETWORKS = {network.kind.__name__: network for network in ROWS}


def recognise(tensors: Tensors) -> str:
    """The name of the class whose state dict this is; raises ConversionError for that of another network."""
    for class_name, network in NETWORKS.items():
        if network.keys <= tensors.keys():
            return class_name
    if not tensors:
        raise ConversionError("the file holds no weights, neither at the top level nor in a known container.")
    raise ConversionError(
        f"these are the weights of no known network (the first keys are {', '.join(list(tensors)[:6])}). A checkpoint "
        "of microsoft/VQ-Diffusion needs its YAML file as --config."
    )


def infer_config(tensors: Tensors, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of a state dict, and the arguments of its constructor, which ``given`` completes or replaces.

    Raises:
        ConversionError: weights are missing, or an argument that the weights do not determine; names it.
    """
    class_name, named = recognise(tensors), named_class(given)
    if named not in (None, class_name) or "model" in given:
        named = named or "whole model of microsoft/VQ-Diffusion"
        raise ConversionError(f"the config is of a {named}, the weights are of a {class_name}: give its config.json.")
    network = NETWORKS[class_name]
    try:
        inferred = {name: infer(tensors) for name, infer in network.inferred.items()}
    except (KeyError, IndexError) as error:
        raise ConversionError(f"some weights of this {class_name} are missing or damaged: {error}") from error
    config = {name: value for name, value in inferred.items() if value is not None or name not in network.undecided}
    config.update({name: value for name, value in given.items() if not name.startswith("_")})
    sizes = network.published
    if sizes is not None and all(config.get(name) == value for name, value in sizes.items()):
        config = {**network.undecided, **config}
    missing = [name for name in network.undecided if name not in config]
    if missing:
        raise ConversionError(
            f"the weights of this {class_name} do not determine {', '.join(missing)}: pass its config.json with "
            "--config, or a JSON file with these entries."
        )
    inner_dim = config.pop("inner_dim", None)
    if inner_dim is not None:
        config.setdefault("attention_head_dim", inner_dim // config["num_attention_heads"])
    return class_name, config
