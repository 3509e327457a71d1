"""Checkpoints of microsoft/VQ-Diffusion: text (ITHQ, COCO, CUB, ...), ImageNet classes, FFHQ, and codecs alone."""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from mindone_vq import (
    ClassToImagePipeline,
    CLIPTokenizer,
    UnconditionalPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
)
from mindone_vq.conversion import infer
from mindone_vq.conversion.original_codec import (
    check_codec,
    check_codec_config,
    codec_component,
    codec_tensors,
)
from mindone_vq.conversion.original_config import Settings, check_told, read_model
from mindone_vq.conversion.original_names import DENOISER, Entries
from mindone_vq.conversion.original_text import text_components
from mindone_vq.conversion.plan import Component, ConversionError, Plan
from mindone_vq.weights.lazy import LazyTensor

Tensors = dict[str, LazyTensor]

ACTIVATIONS = {"GELU2": "geglu-approximate", "GELU": "gelu"}
NULL_CLASS = 1000  # the id that their code has for it
# What their settings and the weights both tell: (setting, name of what the shapes tell).
DENOISER_TOLD = (
    ("transformer_config.n_layer", "num_layers"),
    ("transformer_config.n_embd", "width"),
    ("transformer_config.condition_dim", "cross_attention_dim"),
    ("transformer_config.mlp_hidden_times", "ff_mult"),
    ("diffusion_config.diffusion_step", "num_embeds_ada_norm"),
    ("content_emb_config.num_embed", "num_codes"),
    ("content_emb_config.embed_dim", "width"),
)
FAMILIES = {
    "DALLE": ("Transformer2DModel", VQDiffusionPipeline),
    "C_DALLE": ("ClassTransformer2DModel", ClassToImagePipeline),
    "UC_DALLE": ("UnconditionalTransformer2DModel", UnconditionalPipeline),
}


def plan_original(
    model: Tensors,
    ema: Optional[Tensors],
    config: Mapping[str, Any],
    codec: Optional[Tensors] = None,
    codes: Optional[np.ndarray] = None,
    tokenizer: Optional[CLIPTokenizer] = None,
    codec_config: Optional[Mapping[str, Any]] = None,
) -> Plan:
    """The conversion of a whole model of theirs.

    Args:
        model: the entry ``model`` of their file.
        ema: the entry ``ema``, laid over the denoiser and the text encoder; None: not.
        config: their YAML file.
        codec: the codec's own file, used where ``model`` has none.
        codes: their map from full to reduced codes, (full codes,) integers.
        tokenizer: of CLIP; needed for text.
        codec_config: the YAML file of the codec.

    Raises:
        ConversionError: something is missing, contradictory, or not computed here; names it.
    """
    settings = read_model(config)
    class_name, pipeline = FAMILIES[settings["model.class"]]
    weights = {**model, **{f"transformer.{key}": tensor for key, tensor in (ema or {}).items()}}
    taken = Entries(weights)
    denoiser = _denoiser(taken, settings, class_name)
    components = [denoiser]
    if class_name == "Transformer2DModel":
        components += text_components(taken, settings, denoiser, tokenizer)
    elif taken.take("transformer.empty_text_embed") is not None:
        taken.ignored["transformer.empty_text_embed"] = "a model without text does not use it"
    components.append(_codec(taken, settings, codec, codes, denoiser))
    if codec_config is not None:
        check_codec_config(components[-1], codec_config, "--codec-config", taken)
    for component in components:
        component.advice = "Check that --config belongs to the checkpoint, and that the file is whole."
    unexplained = taken.rest()
    if unexplained:
        raise ConversionError(f"these entries of the checkpoint are not known: {', '.join(sorted(unexplained)[:20])}")
    scheduler = VQDiffusionScheduler(denoiser.config["num_vector_embeds"], denoiser.config["num_embeds_ada_norm"])
    own = {name: settings.one(name, ("model", "diffusion_config")) for name in ("guidance_scale", "truncation_rate")}
    own = {name: float(value) for name, value in own.items() if value is not None}
    return Plan(components, pipeline, scheduler, tokenizer, own, {**taken.ignored, **settings.unused})


def _denoiser(taken: Entries, settings: Settings, class_name: str) -> Component:
    tensors = taken.under("transformer.transformer.", DENOISER)
    if "latent_image_embedding.emb.weight" not in tensors:
        raise ConversionError("the checkpoint has no denoiser (transformer.transformer.*): is it a codec?")
    pixels = settings["transformer_config.content_seq_len"]
    size = round(pixels**0.5)
    if size * size != pixels:
        raise ConversionError(f"--config has content_seq_len {pixels}, which is no square.")
    if tuple(settings["content_codec_config.token_shape"]) != (size, size):
        raise settings.refuse("content_codec_config.token_shape", f"content_seq_len {pixels} is {size} x {size}.")
    if class_name == "ClassTransformer2DModel":
        _complete_null_class(tensors, settings["transformer_config.class_number"])
    found = infer.recognise(tensors)
    if found != class_name:
        raise ConversionError(f"--config is that of a {class_name}, the checkpoint has a {found}.")
    given = {
        "num_attention_heads": settings["transformer_config.n_head"],
        "sample_size": size,
        "dropout": settings["transformer_config.resid_pdrop"],
    }
    if class_name == "Transformer2DModel":
        given["activation_fn"] = ACTIVATIONS[settings["transformer_config.block_activate"]]
    component = infer.component_of(tensors, given)
    check_told(settings, {**component.config, **_widths(tensors)}, DENOISER_TOLD)
    return component


def _widths(tensors: Tensors) -> dict[str, int]:
    """What the shapes tell beside the arguments of the network."""
    codes, width = tensors["latent_image_embedding.emb.weight"].shape
    return {"width": width, "num_codes": codes - 1}


def _complete_null_class(tensors: Tensors, class_number: int) -> None:
    """Makes the null class, which guidance steers away from, the last row of every table of the classes.

    Their code takes the id 1000 for it, whatever ``class_number`` is. A table without that row gives the mean of all
    its rows for it; a table of 1001 rows has it at its end. One row more than ``class_number`` is what fine-tuning for
    guidance (``imagenet_cf``) adds for it.
    """
    for key, tensor in list(tensors.items()):
        if not key.endswith("norm3.emb.weight"):
            continue
        rows = tensor.shape[0]
        if rows not in (class_number, class_number + 1):
            raise ConversionError(
                f"--config has transformer_config.class_number: {class_number}; the checkpoint has {rows} classes, the "
                "null class included: it is another model's."
            )
        if rows == class_number and rows != NULL_CLASS + 1:
            shape = (rows + 1, tensor.shape[1])
            tensors[key] = tensor.cast("float32").then(lambda table: np.vstack([table, _null_row(table)]), shape)


def _null_row(table: np.ndarray) -> np.ndarray:
    return table[NULL_CLASS] if len(table) > NULL_CLASS else table.mean(0)


def _codec(
    taken: Entries,
    settings: Settings,
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
    full, predicted = tensors["quantize.embedding.weight"].shape[0], denoiser.config["num_vector_embeds"] - 1
    _check_codes(settings, codes, full, predicted)
    component = codec_component(tensors, codes)
    if codes is not None and int(codes.max()) + 1 != predicted:
        raise ConversionError(f"--codes has {int(codes.max()) + 1} reduced codes, the denoiser predicts {predicted}.")
    is_gumbel = settings["content_codec_config.class"] == "TamingGumbelVQVAE"
    if is_gumbel != (component.class_name == "GumbelVQModel"):
        raise settings.refuse("content_codec_config.class", f"the checkpoint has a {component.class_name}.")
    downscale = 2 ** (len(component.config["block_out_channels"]) - 1)
    component.config["sample_size"] = denoiser.config["sample_size"] * downscale
    return component


def _check_codes(settings: Settings, codes: Optional[np.ndarray], full: int, predicted: int) -> None:
    """Raises where the map of codes is not what the config, the codec and the denoiser say."""
    reduced = settings.objects["content_codec_config"].get("quantize_number", 0)
    counts = f"the codec has {full} codes, the denoiser predicts {predicted}"
    if not reduced:
        if codes is not None:
            raise ConversionError(
                "--codes is given, but --config has no map of codes (content_codec_config.quantize_number): leave "
                "--codes out, or give the config of this model."
            )
        if full != predicted:
            raise ConversionError(
                f"{counts}, and --config has no map of codes (quantize_number): it is another model's."
            )
        return
    if reduced != predicted:
        raise settings.refuse("content_codec_config.quantize_number", f"{counts} of them: it is another model's.")
    if codes is None:
        raise ConversionError(
            f"{counts} of them: pass their map of codes with --codes (help_folder/statistics/taming_vqvae_*.pt)."
        )
    if codes.shape != (full,):
        raise ConversionError(f"--codes maps {codes.shape} codes, the codec has {full}: it is another model's.")
