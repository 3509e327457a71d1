"""Which network a state dict belongs to, and what its shapes tell of its config."""

import re
from collections.abc import Mapping
from typing import Any

from mindone_vq.conversion.plan import Component, ConversionError
from mindone_vq.weights.config import named_class
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import current_name

Tensors = Mapping[str, LazyTensor]

# class name -> keys that only it has
MARKS = {
    "GumbelVQModel": {"encoder.conv_in.weight", "quantize.proj.weight"},
    "VQModel": {"encoder.conv_in.weight", "quantize.embedding.weight"},
    "ClassTransformer2DModel": {"latent_image_embedding.emb.weight", "transformer_blocks.0.norm3.emb.weight"},
    "UnconditionalTransformer2DModel": {"latent_image_embedding.emb.weight", "transformer_blocks.0.ff.conv1.weight"},
    "Transformer2DModel": {"latent_image_embedding.emb.weight"},
    "CLIPTextModel": {"text_model.embeddings.token_embedding.weight"},
    "LearnedClassifierFreeSamplingEmbeddings": {"embeddings"},
}
# What shapes cannot tell, of the published models (microsoft/vq-diffusion-ithq).
PUBLISHED = [
    (
        "Transformer2DModel",
        {"num_layers": 36, "cross_attention_dim": 512, "num_vector_embeds": 4097},
        1408,
        {"num_attention_heads": 16, "attention_head_dim": 88, "activation_fn": "geglu-approximate"},
    ),
    (
        "VQModel",
        {"block_out_channels": [64, 128, 256, 512], "num_vq_embeddings": 4096, "vq_embed_dim": 128},
        None,
        {"norm_num_groups": 32, "act_fn": "silu"},
    ),
    (
        "CLIPTextModel",
        {"vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12},
        None,
        {"num_attention_heads": 8, "hidden_act": "quick_gelu", "eos_token_id": 49407},
    ),
]


def recognise(tensors: Tensors) -> str:
    """The name of the class whose state dict this is.

    Raises:
        ConversionError: it is none that is known.
    """
    keys = {current_name(key) for key in tensors}
    for class_name, marks in MARKS.items():
        if marks <= keys:
            return class_name
    if not tensors:
        raise ConversionError("the file holds no weights, neither by themselves nor in a container that is known.")
    raise ConversionError(
        f"these are the weights of no network known here (it begins with {', '.join(list(tensors)[:6])}). A checkpoint "
        "of microsoft/VQ-Diffusion needs its --config their.yaml."
    )


def component_of(tensors: Tensors, given: Mapping[str, Any]) -> Component:
    """The network of a bare state dict; ``given`` completes or overrules what the shapes tell of its config.

    Raises:
        ConversionError: an argument that shapes cannot tell is missing; names it.
    """
    named = named_class(given)
    class_name = recognise(tensors)
    if named not in (None, class_name):
        raise ConversionError(f"the config is of a {named}, the weights are of a {class_name}.")
    tensors = {current_name(key): tensor for key, tensor in tensors.items()}
    try:
        inferred = CONFIGS[class_name](tensors)
    except (KeyError, IndexError) as error:
        raise ConversionError(
            f"these are the weights of a {class_name}, but not all: missing or damaged: {error}"
        ) from error
    config = {**inferred, **{key: value for key, value in given.items() if key[0] != "_"}}
    for published_class, shapes, width, rest in PUBLISHED:
        fits = published_class == class_name and all(config.get(key) == value for key, value in shapes.items())
        if fits and width in (None, config.get("inner_dim")):
            config = {**rest, **config}
    inner_dim = config.pop("inner_dim", None)
    undecided = [key for key in UNDECIDED.get(class_name, ()) if key not in config]
    if undecided:
        raise ConversionError(
            f"the shapes of this {class_name} do not tell {', '.join(undecided)}: pass its config.json with --config, "
            "or a JSON file with these entries."
        )
    if inner_dim is not None and "attention_head_dim" not in config:
        config["attention_head_dim"] = inner_dim // config["num_attention_heads"]
    return Component(class_name, config, tensors)


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers stand in the place of the group in ``pattern``."""
    return len({match.group(1) for key in tensors if (match := re.match(pattern, key))})


def _vq_config(tensors: Tensors) -> dict[str, Any]:
    levels = range(_count(tensors, r"encoder\.down_blocks\.(\d+)\."))

    def has_attention(path: str) -> bool:
        return any(key.startswith(path) for key in tensors)

    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "block_out_channels": [tensors[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in levels],
        "down_block_types": [
            "AttnDownEncoderBlock2D" if has_attention(f"encoder.down_blocks.{i}.attentions.") else "DownEncoderBlock2D"
            for i in levels
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if has_attention(f"decoder.up_blocks.{i}.attentions.") else "UpDecoderBlock2D"
            for i in levels
        ],
        "layers_per_block": _count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": tensors["encoder.conv_out.weight"].shape[0],
        "num_vq_embeddings": tensors["quantize.embedding.weight"].shape[0],
        "vq_embed_dim": tensors["quantize.embedding.weight"].shape[1],
        "mid_block_add_attention": has_attention("encoder.mid_block.attentions."),
        "norm_type": "spatial" if has_attention("decoder.conv_norm_out.norm_layer.") else "group",
    }


def _denoiser_config(tensors: Tensors) -> dict[str, Any]:
    is_timed = any(re.match(r"transformer_blocks\.\d+\.norm1\.(emb|linear)\.", key) for key in tensors)
    return {
        "num_layers": _count(tensors, r"transformer_blocks\.(\d+)\."),
        "num_vector_embeds": tensors["latent_image_embedding.emb.weight"].shape[0],
        "inner_dim": tensors["latent_image_embedding.emb.weight"].shape[1],
        "num_embeds_ada_norm": tensors["transformer_blocks.0.norm1.emb.weight"].shape[0] if is_timed else None,
    }


def _transformer_config(tensors: Tensors) -> dict[str, Any]:
    config = _denoiser_config(tensors)
    key = tensors.get("transformer_blocks.0.attn2.to_k.weight")
    config.update(
        sample_size=tensors["latent_image_embedding.height_emb.weight"].shape[0],
        cross_attention_dim=None if key is None else key.shape[1],
        attention_bias="transformer_blocks.0.attn1.to_q.bias" in tensors,
        norm_elementwise_affine="transformer_blocks.0.norm3.weight" in tensors,
        norm_type="layer_norm" if config["num_embeds_ada_norm"] is None else "ada_norm",
    )
    if tensors["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] == 8 * config["inner_dim"]:
        config["activation_fn"] = "geglu"
    return config


def _convolutional_config(tensors: Tensors) -> dict[str, Any]:
    config = _denoiser_config(tensors)
    config["ff_mult"] = tensors["transformer_blocks.0.ff.conv1.weight"].shape[0] // config["inner_dim"]
    config["position_table_size"] = tensors["latent_image_embedding.height_emb.weight"].shape[0]
    return config


def _class_config(tensors: Tensors) -> dict[str, Any]:
    rows = tensors["transformer_blocks.0.norm3.emb.weight"].shape[0]
    return {**_convolutional_config(tensors), "num_class_embeds": rows}


def _text_config(tensors: Tensors) -> dict[str, Any]:
    embeddings = "text_model.embeddings."
    return {
        "vocab_size": tensors[f"{embeddings}token_embedding.weight"].shape[0],
        "hidden_size": tensors[f"{embeddings}token_embedding.weight"].shape[1],
        "max_position_embeddings": tensors[f"{embeddings}position_embedding.weight"].shape[0],
        "intermediate_size": tensors["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(tensors, r"text_model\.encoder\.layers\.(\d+)\."),
    }


def _null_text_config(tensors: Tensors) -> dict[str, Any]:
    shape = tensors["embeddings"].shape
    if len(shape) != 2:
        return {"learnable": False}
    return {"learnable": True, "length": shape[0], "hidden_size": shape[1]}


CONFIGS = {
    "VQModel": _vq_config,
    "GumbelVQModel": _vq_config,
    "Transformer2DModel": _transformer_config,
    "ClassTransformer2DModel": _class_config,
    "UnconditionalTransformer2DModel": _convolutional_config,
    "CLIPTextModel": _text_config,
    "LearnedClassifierFreeSamplingEmbeddings": _null_text_config,
}
UNDECIDED = {
    "VQModel": ("norm_num_groups", "act_fn"),
    "GumbelVQModel": ("norm_num_groups", "act_fn"),
    "Transformer2DModel": ("num_attention_heads", "activation_fn"),
    "ClassTransformer2DModel": ("num_attention_heads", "sample_size"),
    "UnconditionalTransformer2DModel": ("num_attention_heads", "sample_size"),
    "CLIPTextModel": ("num_attention_heads", "hidden_act", "eos_token_id"),
}
