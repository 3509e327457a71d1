"""Whole models of microsoft/VQ-Diffusion: text (ITHQ, COCO, CUB, ...), ImageNet classes, FFHQ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mindone_vq import ClassToImagePipeline, UnconditionalPipeline, VQDiffusionPipeline, VQDiffusionScheduler
from mindone_vq.conversion.files import open_tensors, read_config, read_tokenizer
from mindone_vq.conversion.networks import CODEBOOK, CODES, TOKENS, ConversionError, Tensors
from mindone_vq.conversion.options import Options
from mindone_vq.conversion.original_config import Settings
from mindone_vq.conversion.original_weights import (
    DENOISER,
    EMPTY_TEXT,
    NULL_TEXT,
    TEXT_ENCODER,
    VQVAE_FIXED,
    Entries,
    check_config,
    read_codes,
    take_vqvae,
)
from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.weights.lazy import LazyTensor

# The class of the model -> the classes of its denoiser and its condition; ours, and the pipeline.
FAMILIES = {
    "DALLE": ("Text2ImageTransformer", "CLIPTextEmbedding", "Transformer2DModel", VQDiffusionPipeline),
    "C_DALLE": ("Condition2ImageTransformer", "ClassEmbedding", "ClassTransformer2DModel", ClassToImagePipeline),
    "UC_DALLE": ("UnCondition2ImageTransformer", None, "UnconditionalTransformer2DModel", UnconditionalPipeline),
}
ACTIVATIONS = {"GELU2": "geglu-approximate", "GELU": "gelu"}
ADVICE = "Check that --config belongs to the checkpoint, and that the file is complete."
NULL_CLASS = 1000  # its id in the original code
HEAD_WIDTH = 64  # of CLIP
BYTES = 256  # tokens that end_idx does not count: each byte again, at the end of a word


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a model's YAML file; raises as ``Settings.read`` does."""
    settings = Settings.read(config, FAMILIES, "--config")
    model = settings["model.class"]
    for name, expected in zip(("transformer_config", "condition_emb_config"), FAMILIES[model]):
        given = settings.objects.get(name, {}).get("class")
        if given != expected:
            raise ConversionError(f"--config has a {model} with {name}: {given}; it needs {expected}.")
    return settings


def plan_model(model: Tensors, ema: Tensors, config: Optional[Mapping[str, Any]], options: Options) -> Plan:
    """The conversion of a whole model with its YAML file; moving averages replace the weights of the same names.

    Raises:
        ConversionError: something is missing, contradictory, or not implemented; names it.
    """
    if config is None:
        raise ConversionError("SOURCE is a whole model of microsoft/VQ-Diffusion: pass its config with --config.")
    settings = read_settings(config)
    *_, class_name, pipeline = FAMILIES[settings["model.class"]]
    entries = Entries({**model, **{f"transformer.{key}": tensor for key, tensor in ema.items()}})
    denoiser = _denoiser(entries, settings, class_name)
    plan = Plan([denoiser], pipeline)
    if class_name == "Transformer2DModel":
        encoder = _text_encoder(entries, settings)
        plan.tokenizer = read_tokenizer(options.tokenizer, encoder.config["vocab_size"])
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            encoder.config[name] = getattr(plan.tokenizer, name)
        plan.components += [encoder, _null_text(entries, settings)]
    elif options.tokenizer:
        raise ConversionError("--tokenizer is for a text model, and --config is not of one: leave --tokenizer out.")
    elif entries.take(NULL_TEXT):
        entries.ignored[EMPTY_TEXT] = "a model without text does not use it"
    plan.components.append(_vqvae(entries, settings, denoiser.config, options, plan.skipped_objects))
    entries.check_empty()
    plan.scheduler = VQDiffusionScheduler(denoiser.config["num_vector_embeds"], denoiser.config["num_embeds_ada_norm"])
    for name in ("guidance_scale", "truncation_rate"):
        if settings.of_generation(name) is not None:
            plan.default_settings[name] = float(settings.of_generation(name))
    plan.ignored = {**entries.ignored, **settings.unused}
    return plan


def _denoiser(entries: Entries, settings: Settings, class_name: str) -> Component:
    tensors = entries.take(DENOISER)
    if CODES not in tensors:
        raise ConversionError("the checkpoint has no denoiser (transformer.transformer.*): is it a VQ-VAE?")
    pixels = settings["transformer_config.content_seq_len"]
    side = round(pixels**0.5)
    if tuple(settings["content_codec_config.token_shape"]) != (side, side) or side * side != pixels:
        raise settings.refusal("content_codec_config.token_shape", f"content_seq_len {pixels} is not its square.")
    if class_name == "ClassTransformer2DModel":
        _complete_null_class(tensors, settings)
    arguments = {
        "_class_name": class_name,
        "num_attention_heads": settings["transformer_config.n_head"],
        "sample_size": side,
        "dropout": settings["transformer_config.resid_pdrop"],
    }
    if class_name == "Transformer2DModel":
        arguments["activation_fn"] = ACTIVATIONS[settings["transformer_config.block_activate"]]
    component = Component.inferred(tensors, arguments, ADVICE)
    classes, width = tensors[CODES].shape
    settings.check_equal({**component.config, "inner_dim": width, "num_codes": classes - 1})
    return component


def _complete_null_class(tensors: dict[str, LazyTensor], settings: Settings) -> None:
    """Makes the null class, which guidance steers away from, the last row of every table of the classes.

    The original code uses the id 1000 for it, whatever ``class_number`` is. For a table without that row it uses the
    mean of all rows; a table of 1001 rows has it as the last. A table with one row more than ``class_number`` got
    this row for the null class by fine-tuning for guidance (``imagenet_cf``).
    """

    def with_null_row(table: np.ndarray) -> np.ndarray:
        return np.vstack([table, table[NULL_CLASS] if len(table) > NULL_CLASS else table.mean(0)])

    class_number = settings["transformer_config.class_number"]
    for key in [key for key in tensors if key.endswith("norm3.emb.weight")]:
        rows, width = tensors[key].shape
        if rows not in (class_number, class_number + 1):
            why = f"the checkpoint has {rows} classes, including the null class: check --config."
            raise settings.refusal("transformer_config.class_number", why)
        if rows == class_number and rows != NULL_CLASS + 1:
            tensors[key] = tensors[key].cast("float32").then(with_null_row, (rows + 1, width))


def _text_encoder(entries: Entries, settings: Settings) -> Component:
    """CLIP's text encoder; the ids of its special tokens are those of the tokenizer, set later."""
    tensors = {}
    for name, tensor in entries.take(TEXT_ENCODER).items():
        if ".in_proj." not in name:
            tensors[name] = tensor.cast("float32")
            continue
        rows, rest = divmod(tensor.shape[0], 3)
        if rest:
            raise ConversionError(f"{name} of the text encoder has {tensor.shape[0]} rows, not a multiple of 3.")
        for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
            third, shape = slice(i * rows, (i + 1) * rows), (rows, *tensor.shape[1:])
            weight = tensor.then(lambda whole, third=third: whole[third], shape)
            tensors[name.replace("in_proj", part)] = weight.cast("float32")
    if TOKENS not in tensors:
        raise ConversionError("the checkpoint has no text encoder (transformer.condition_emb.token_embedding etc.).")
    width = tensors[TOKENS].shape[1]
    arguments = {"num_attention_heads": width // HEAD_WIDTH, "hidden_act": "quick_gelu", "projection_dim": width}
    component = Component.inferred(tensors, {**arguments, "eos_token_id": -1}, ADVICE)
    end_idx = component.config["vocab_size"] - BYTES
    settings.check_equal({**component.config, "cross_attention_dim": width, "end_idx": end_idx}, "text encoder")
    return component


def _null_text(entries: Entries, settings: Settings) -> Component:
    """Learned where the checkpoint has it, unless the config says that it is not used."""
    tensors, learnable = entries.take(NULL_TEXT), settings.of_generation("learnable_cf")
    if learnable and not tensors:
        raise ConversionError(
            f"--config has learnable_cf: True, the checkpoint has no learned null text ({EMPTY_TEXT}): check --config. "
            "With learnable_cf: False the null text is the empty prompt."
        )
    if tensors and learnable is not False:
        return Component.inferred({"embeddings": tensors["embeddings"].cast("float32")}, {}, ADVICE)
    if tensors:
        entries.ignored[EMPTY_TEXT] = "--config has learnable_cf: False, so the null text is the empty prompt"
    return Component("LearnedClassifierFreeSamplingEmbeddings", {"learnable": False}, {})


def _vqvae(
    entries: Entries, settings: Settings, denoiser: Mapping[str, Any], options: Options, skipped: set[str]
) -> Component:
    """The VQ-VAE of the checkpoint, or of its own file, whose skipped objects are added to ``skipped``."""
    tensors = take_vqvae(entries)
    if tensors and options.codec:
        entries.ignored["--codec"] = "the checkpoint has its own VQ-VAE, the one that it was trained with"
    elif options.codec:
        codec, _, objects = open_tensors(options.codec, "--codec", options.ignore_unknown_objects)
        own = Entries(codec)
        tensors = take_vqvae(own)
        own.check_empty()
        entries.ignored.update(own.ignored)
        skipped |= objects
    if not tensors:
        raise ConversionError("the checkpoint has no VQ-VAE (content_codec.*): pass its own file with --codec.")
    order = _codebook_order(settings, options.codes, tensors[CODEBOOK].shape[0], denoiser["num_vector_embeds"] - 1)
    for name in {CODEBOOK, "quantize.proj.weight", "quantize.proj.bias"} & tensors.keys():
        tensors[name] = tensors[name] if order is None else tensors[name].then(lambda rows: rows[order])
    component = Component.inferred(tensors, VQVAE_FIXED, ADVICE)
    settings.check_quantizer(component.class_name)
    if options.codec_config:
        entries.ignored.update(check_config(component, read_config(options.codec_config), "--codec-config"))
    downscale = 2 ** (len(component.config["block_out_channels"]) - 1)
    component.config["sample_size"] = denoiser["sample_size"] * downscale
    return component


def _codebook_order(settings: Settings, codes: Optional[Path], full: int, predicted: int) -> Optional[np.ndarray]:
    """By the map of codes; None for a model that has none."""
    reduced = settings.objects["content_codec_config"].get("quantize_number", 0)
    if codes and not reduced:
        advice = "there is no map of codes: leave --codes out"
    elif reduced and not codes:
        advice = "pass the map of codes with --codes (help_folder/statistics/taming_vqvae_*.pt)"
    elif (reduced or full) != predicted:
        advice = "check --config"
    else:
        return read_codes(codes, full, predicted) if codes else None
    raise ConversionError(
        f"--config has content_codec_config.quantize_number: {reduced}; the VQ-VAE has {full} codes, the denoiser "
        f"predicts {predicted}: {advice}."
    )
