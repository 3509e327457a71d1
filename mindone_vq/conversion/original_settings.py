"""What is done with each setting in the YAML files of microsoft/VQ-Diffusion: one table for each of its classes.

A setting is an argument of the constructor of a class. It is read; or it is told by the weights; or it must have the
one value that is computed here; or it has no effect on what is generated, for a reason that the report names. A setting
that its class does not have is refused. The defaults are those of the constructors: a file may leave a setting out.
"""

from dataclasses import dataclass
from typing import Any, Callable

REQUIRED = object()


@dataclass(frozen=True)
class Rule:
    """What is done with one setting.

    Attributes:
        accepts: whether a value is known here.
        expected: which values are, in words.
        default: the value where the setting is absent; ``REQUIRED``: it must be there.
        unused: why no value changes what is generated; empty: it may.
        classes: of a setting that is an object, the classes it may be of; otherwise empty.
        bare: the object is given by its arguments alone, not by target and params.
    """

    accepts: Callable[[Any], bool] = lambda value: True
    expected: str = ""
    default: Any = REQUIRED
    unused: str = ""
    classes: tuple[str, ...] = ()
    bare: bool = False


def only(*values: Any, default: Any = REQUIRED) -> Rule:
    """One of ``values``, of their type: False is not 0 here, and 0 is not False."""

    def accepts(value: Any) -> bool:
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values)

    return Rule(accepts, " or ".join(map(str, values)), default)


def unused(why: str) -> Rule:
    """Any value, without effect."""
    return Rule(unused=why, default=None)


def object_of(*classes: str) -> Rule:
    """An object of one of ``classes``."""
    return Rule(classes=classes)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def whole(default: Any = REQUIRED) -> Rule:
    """A count."""
    return Rule(lambda value: _is_whole(value) and value > 0, "a whole number above 0", default)


def number(default: Any = REQUIRED) -> Rule:
    """A number."""
    return Rule(_is_number, "a number that is not negative", default)


FLAG = Rule(lambda value: value is None or isinstance(value, bool), "true or false", None)
SCALE = Rule(lambda value: value is None or _is_number(value), "a number that is not negative", None)
RATE = Rule(lambda value: value is None or (_is_number(value) and 0 < value <= 1), "a number above 0 and up to 1", None)
TOLD = Rule(default=None)  # by the weights

TRAINING = "a setting of training"
DATA = "a name in the data of training"
FILES = "the name of a file, in whose place --codec, --codes and --tokenizer are"
KEPT = "their code keeps it and does not use it"
PASSED_OVER = "their code passes over it"

# Model.

_GENERATION = {"guidance_scale": SCALE, "truncation_rate": RATE, "learnable_cf": FLAG}
_MODEL = {
    **_GENERATION,
    "content_info": unused(DATA),
    "content_codec_config": object_of("PatchVQVAE", "TamingVQVAE", "TamingGumbelVQVAE", "TamingFFHQVQVAE"),
    # Their module diffusion_transformer_amp has a class of the same name and another schedule.
    "diffusion_config": object_of("diffusion_transformer.DiffusionTransformer"),
}
_DIFFUSION = {
    **_GENERATION,
    "diffusion_step": whole(),
    "alpha_init_type": only("alpha1", default="cos"),
    "auxiliary_loss_weight": unused(TRAINING),
    "adaptive_auxiliary_loss": unused(TRAINING),
    "mask_weight": unused(TRAINING),
    "content_emb_config": object_of("DalleMaskImageEmbedding"),
    "condition_emb_config": Rule(classes=("CLIPTextEmbedding", "ClassEmbedding"), default=None),
    "transformer_config": object_of(
        "Text2ImageTransformer", "Condition2ImageTransformer", "UnCondition2ImageTransformer"
    ),
}
_DENOISER = {
    "n_layer": whole(),
    "n_embd": whole(),
    "n_head": whole(),
    "content_seq_len": whole(),
    "content_spatial_size": unused(KEPT),
    "attn_pdrop": unused(TRAINING),
    "resid_pdrop": number(default=0.0),
    "timestep_type": only("adalayernorm", default="adalayernorm"),
    # Both are overwritten by the settings of the same name one level above.
    "diffusion_step": unused(KEPT),
    "content_emb_config": unused(KEPT),
}
_CONVOLUTIONAL = {
    **_DENOISER,
    "block_activate": only("GELU2", default=None),
    "mlp_hidden_times": number(default=4),
    "mlp_type": only("conv_mlp", default="conv_mlp"),
}
_CODEC = {"trainable": unused(TRAINING)}


def _grid(side: int) -> Rule:
    """Height and width of the codes; by default ``side``."""
    return Rule(lambda value: isinstance(value, (list, tuple)), "a list of height and width", [side, side])


def _mapped_codec(side: int, quantize_number: int) -> dict[str, Rule]:
    """Of a codec that may have a map of codes, with its defaults."""
    return {
        **_CODEC,
        "token_shape": _grid(side),
        "quantize_number": Rule(_is_whole, "a whole number", quantize_number),
        "mapping_path": unused(FILES),
        "config_path": unused(FILES),
        "ckpt_path": unused(FILES),
        "num_tokens": unused(KEPT),
    }


# Codecs of their own files.

_ENDS = {
    "ch": TOLD,
    "out_ch": TOLD,
    "ch_mult": TOLD,
    "num_res_blocks": TOLD,
    "attn_resolutions": TOLD,
    "in_channels": TOLD,
    "resolution": TOLD,
    "z_channels": TOLD,
    "dropout": unused(TRAINING),
    "resamp_with_conv": only(True, default=True),
}
_VQGAN = {
    "ddconfig": Rule(classes=("ddconfig",), bare=True),
    "lossconfig": unused(TRAINING),
    "n_embed": whole(),
    "embed_dim": whole(),
    "ckpt_path": unused(FILES),
    "ignore_keys": unused(FILES),
    "image_key": unused(DATA),
    "colorize_nlabels": unused(TRAINING),
    "monitor": unused(TRAINING),
    "remap": only(None, default=None),
}

RULES: dict[str, dict[str, Rule]] = {
    "DALLE": {**_MODEL, "condition_info": unused(DATA), "condition_codec_config": object_of("Tokenize")},
    "C_DALLE": {**_MODEL, "condition_info": unused(DATA)},
    "UC_DALLE": _MODEL,
    "DiffusionTransformer": _DIFFUSION,
    "Text2ImageTransformer": {
        **_DENOISER,
        "attn_type": only("selfcross", default="selfcross"),
        "block_activate": only("GELU2", "GELU", default=None),
        "condition_dim": whole(default=512),
        "condition_seq_len": unused(KEPT),
        "mlp_hidden_times": only(4, default=4),
        "mlp_type": only("fc", default="fc"),
        "checkpoint": unused(TRAINING),
    },
    "Condition2ImageTransformer": {
        **_CONVOLUTIONAL,
        "attn_type": only("selfcondition", default="selfcondition"),
        "class_type": only("adalayernorm", default="adalayernorm"),
        "class_number": whole(default=1000),
    },
    "UnCondition2ImageTransformer": {
        **_CONVOLUTIONAL,
        "attn_type": only("self", default="self"),
        "class_type": unused(KEPT),
    },
    "DalleMaskImageEmbedding": {
        "num_embed": whole(default=8192),
        "spatial_size": TOLD,
        "embed_dim": whole(default=3968),
        "trainable": unused(TRAINING),
        "pos_emb_type": only("embedding", default="embedding"),
    },
    "CLIPTextEmbedding": {
        "clip_name": unused("CLIP's weights are in the checkpoint"),
        "num_embed": unused(KEPT),
        "normalize": only(True, default=True),
        "pick_last_embedding": only(False, default=True),
        "keep_seq_len_dim": unused("it goes with pick_last_embedding"),
        "additional_last_embedding": only(False, default=False),
        # With 1024 they join the embedding to itself.
        "embed_dim": Rule(lambda value: _is_whole(value) and value != 1024, "the width of CLIP, not 1024,", 1024),
    },
    "ClassEmbedding": {
        "num_embed": unused("it goes with identity: False"),
        "embed_dim": unused("it goes with identity: False"),
        "identity": only(True, default=False),
        "trainable": unused(TRAINING),
    },
    "Tokenize": {
        "context_length": whole(default=256),
        "add_start_and_end": only(True, default=False),
        "just_token": only(False, default=False),
        "with_mask": unused(TRAINING),
        # Their text encoder takes a negative id for 0.
        "pad_value": Rule(lambda value: isinstance(value, int) and value <= 0, "0 or a negative number", 0),
        "clip_embedding": only(False, default=False),
        "condition_emb_config": unused("it goes with clip_embedding"),
        "tokenizer_config": Rule(classes=("SimpleTokenizer",), default={"target": "simple_tokenizer.SimpleTokenizer"}),
    },
    "SimpleTokenizer": {"end_idx": whole(default=49152), "bpe_path": unused(FILES)},
    "PatchVQVAE": {**_CODEC, "token_shape": _grid(16)},
    "TamingVQVAE": _mapped_codec(16, 974),
    "TamingGumbelVQVAE": _mapped_codec(32, 2887),
    "TamingFFHQVQVAE": _mapped_codec(16, 0),
    "PatchVQGAN": {
        "encoder_config": object_of("Encoder"),
        "decoder_config": object_of("Decoder"),
        "lossconfig": unused(TRAINING),
        "n_embed": whole(),
        "embed_dim": whole(),
        "ignore_keys": unused(FILES),
        "data_info": unused(DATA),
        "quantizer_type": only("EMAVQ", "VQ", default="VQ"),
        "quantizer_dis_type": only("euclidean", default="euclidean"),
        "decay": unused(TRAINING),
        "trainable": unused(TRAINING),
        "ckpt_path": unused(FILES),
        "token_shape": unused("the codec takes pictures of any size"),
    },
    "Encoder": {**_ENDS, "double_z": only(False, default=False), "scale_by_2": only(None, default=None)},
    "Decoder": {**_ENDS, "scale_by_2": only(None, default=None)},
    "ddconfig": {**_ENDS, "double_z": only(False, default=True), "give_pre_end": only(False, default=False)},
    "VQModel": {**_VQGAN, "sane_index_shape": unused("the codes are the same in any shape")},
    "GumbelVQ": {**_VQGAN, "kl_weight": unused(TRAINING), "temperature_scheduler_config": unused(TRAINING)},
    "Net2NetTransformer": {
        "first_stage_config": object_of("VQModel", "GumbelVQ"),
        **dict.fromkeys(
            (
                *("transformer_config", "cond_stage_config", "permuter_config", "ckpt_path", "ignore_keys"),
                *("first_stage_key", "cond_stage_key", "downsample_cond_size", "pkeep", "sos_token", "unconditional"),
            ),
            unused("a setting of the other stage, a GPT over codes"),
        ),
    },
}
# Classes that take any argument and pass over those that they do not know.
LENIENT = ("Encoder", "Decoder", "ddconfig")
# The model, and the classes of its denoiser and of what the denoiser is told.
MODELS = {
    "DALLE": ("Text2ImageTransformer", "CLIPTextEmbedding"),
    "C_DALLE": ("Condition2ImageTransformer", "ClassEmbedding"),
    "UC_DALLE": ("UnCondition2ImageTransformer", None),
}
CODECS = ("PatchVQGAN", "VQModel", "GumbelVQ", "Net2NetTransformer")
# What else stands in their files beside `model`.
BESIDE_MODEL = {"solver": TRAINING, "dataloader": TRAINING}
