"""Every setting in the YAML files of microsoft/VQ-Diffusion: one table for each class of the original code.

A setting is an argument of the constructor of a class. It is read; or it must agree with the weights; or it must have
the one value that is implemented here; or it does not change what is generated, for a reason that the report names. A
setting that is in no table is refused. The defaults are those of the constructors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from mindone_vq.conversion.networks import ConversionError

REQUIRED = object()


@dataclass(frozen=True)
class Rule:
    """What is done with one setting.

    Attributes:
        accepts, expected: whether a value is implemented, and a description of such values.
        default: the value where the setting is absent; ``REQUIRED``: it must be there.
        equals: the inferred argument that the value must be equal to; empty: none.
        unused: why no value changes what is generated; empty: it may.
        classes: of a setting that is an object, the classes it may be of; otherwise empty.
    """

    accepts: Callable[[Any], bool] = lambda value: True
    expected: str = ""
    default: Any = REQUIRED
    equals: str = ""
    unused: str = ""
    classes: tuple[str, ...] = ()


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def is_whole(value: Any) -> bool:
    return is_number(value) and isinstance(value, int)


def only(*values: Any, default: Any) -> Rule:
    """One of ``values``, of their type: False is not 0."""
    known = [(isinstance(value, bool), value) for value in values]
    return Rule(lambda value: (isinstance(value, bool), value) in known, " or ".join(map(str, values)), default)


def at_default(**defaults: Any) -> dict[str, Rule]:
    """Settings of which only the default is implemented."""
    return {name: only(default, default=default) for name, default in defaults.items()}


def whole(default: Any = REQUIRED, equals: str = "") -> Rule:
    return Rule(lambda value: is_whole(value) and value > 0, "a whole number above 0", default, equals)


def number(default: Any, equals: str = "") -> Rule:
    return Rule(is_number, "a number that is not negative", default, equals)


def inferred(equals: str = "") -> Rule:
    """Not read, because the weights determine it, but compared with the argument ``equals``."""
    return Rule(default=None, equals=equals)


def objects(*classes: str, default: Any = REQUIRED) -> Rule:
    return Rule(classes=classes, default=default)


def unused(reason: str, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(unused=reason, default=None))


TRAINING = "a setting of training"
DATA = "a name in the training data"
FILES = "the name of a file, replaced by --codec, --codes and --tokenizer"
NOT_READ = "the original code stores it and does not use it"
IGNORED = "the original code ignores it"
SECOND_STAGE = "a setting of the second stage, a GPT over codes"

# Without effect in every class.
UNUSED = {
    **unused(DATA, "content_info", "condition_info", "data_info", "image_key"),
    **unused(FILES, "ckpt_path", "mapping_path", "config_path", "bpe_path", "ignore_keys"),
    **unused(NOT_READ, "content_spatial_size", "condition_seq_len", "num_tokens"),
    **unused(TRAINING, "attn_pdrop", "auxiliary_loss_weight", "adaptive_auxiliary_loss", "mask_weight", "checkpoint"),
    **unused(TRAINING, "trainable", "with_mask", "dropout", "lossconfig", "decay", "colorize_nlabels", "monitor"),
    **unused(TRAINING, "kl_weight", "temperature_scheduler_config"),
}

GENERATION = {
    "guidance_scale": Rule(lambda scale: scale is None or is_number(scale), "a number that is not negative", None),
    "truncation_rate": Rule(lambda rate: rate in (None, 1) or (is_number(rate) and 0 < rate < 1), "in (0, 1]", None),
    "learnable_cf": Rule(lambda flag: flag is None or isinstance(flag, bool), "true or false", None),
}
MODEL = {
    **GENERATION,
    "content_codec_config": objects("PatchVQVAE", "TamingVQVAE", "TamingGumbelVQVAE", "TamingFFHQVQVAE"),
    # The module diffusion_transformer_amp has a class of the same name and another schedule.
    "diffusion_config": objects("diffusion_transformer.DiffusionTransformer"),
}
DENOISER = {
    "n_layer": whole(equals="num_layers"),
    "n_embd": whole(equals="inner_dim"),
    "n_head": whole(),
    "content_seq_len": whole(),
    "resid_pdrop": number(0.0),
    **at_default(timestep_type="adalayernorm"),
    # Overwritten by the settings of the same name one level above.
    **unused(NOT_READ, "diffusion_step", "content_emb_config"),
}
CONVOLUTIONAL = {
    **DENOISER,
    "block_activate": only("GELU2", default=None),
    "mlp_hidden_times": number(4, equals="ff_mult"),
    **at_default(mlp_type="conv_mlp"),
}


def codes(side: int, quantize_number: int) -> dict[str, Rule]:
    """The codes of a VQ-VAE in a model, with the defaults of its class."""
    grid = Rule(lambda value: isinstance(value, (list, tuple)), "a list of height and width", [side, side])
    return {"token_shape": grid, "quantize_number": Rule(is_whole, "a whole number", quantize_number)}


# The classes of a VQ-VAE's own file.
HALF = {
    **dict.fromkeys(("ch", "ch_mult", "attn_resolutions", "resolution", "in_channels", "out_ch"), inferred()),
    "num_res_blocks": inferred("layers_per_block"),
    "z_channels": inferred("latent_channels"),
    **at_default(resamp_with_conv=True),
    **unused(IGNORED, "*"),  # these classes accept any argument
}
IN, OUT = {"in_channels": inferred("in_channels")}, {"out_ch": inferred("out_channels")}
CODEBOOK = {"n_embed": whole(equals="num_vq_embeddings"), "embed_dim": whole(equals="vq_embed_dim")}
VQGAN = {**CODEBOOK, "ddconfig": objects("ddconfig"), **at_default(remap=None)}

RULES: dict[str, dict[str, Rule]] = {
    "DALLE": {**MODEL, "condition_codec_config": objects("Tokenize")},
    "C_DALLE": MODEL,
    "UC_DALLE": MODEL,
    "DiffusionTransformer": {
        **GENERATION,
        "diffusion_step": whole(equals="num_embeds_ada_norm"),
        "alpha_init_type": only("alpha1", default="cos"),
        "content_emb_config": objects("DalleMaskImageEmbedding"),
        "condition_emb_config": objects("CLIPTextEmbedding", "ClassEmbedding", default=None),
        "transformer_config": objects(*(f"{kind}2ImageTransformer" for kind in ("Text", "Condition", "UnCondition"))),
    },
    "Text2ImageTransformer": {
        **DENOISER,
        **at_default(attn_type="selfcross", mlp_type="fc", mlp_hidden_times=4),
        "block_activate": only("GELU2", "GELU", default=None),
        "condition_dim": whole(512, equals="cross_attention_dim"),
    },
    "Condition2ImageTransformer": {
        **CONVOLUTIONAL,
        **at_default(attn_type="selfcondition", class_type="adalayernorm"),
        "class_number": whole(1000),
    },
    "UnCondition2ImageTransformer": {**CONVOLUTIONAL, **at_default(attn_type="self"), **unused(NOT_READ, "class_type")},
    "DalleMaskImageEmbedding": {
        "num_embed": whole(8192, equals="num_codes"),
        "embed_dim": whole(3968, equals="inner_dim"),
        "spatial_size": inferred(),
        **at_default(pos_emb_type="embedding"),
    },
    "CLIPTextEmbedding": {
        **unused("CLIP's weights are in the checkpoint", "clip_name"),
        **unused(NOT_READ, "num_embed"),
        **at_default(normalize=True, additional_last_embedding=False),
        "pick_last_embedding": only(False, default=True),
        **unused("it belongs to pick_last_embedding: True", "keep_seq_len_dim"),
        # With 1024 the original code concatenates the embedding with itself.
        "embed_dim": Rule(lambda value: is_whole(value) and value != 1024, "the width of CLIP, not 1024,", 1024),
    },
    "ClassEmbedding": {
        "identity": only(True, default=False),
        **unused("it belongs to identity: False", "num_embed", "embed_dim"),
    },
    "Tokenize": {
        "context_length": whole(256, equals="max_position_embeddings"),
        "add_start_and_end": only(True, default=False),
        **at_default(just_token=False, clip_embedding=False),
        # The original text encoder takes a negative id for 0.
        "pad_value": Rule(lambda value: isinstance(value, int) and value <= 0, "0 or a negative number", 0),
        **unused("it belongs to clip_embedding: True", "condition_emb_config"),
        "tokenizer_config": objects("SimpleTokenizer", default={"target": "simple_tokenizer.SimpleTokenizer"}),
    },
    "SimpleTokenizer": {"end_idx": whole(49152, equals="end_idx")},
    "PatchVQVAE": {"token_shape": codes(16, 0)["token_shape"]},
    "TamingVQVAE": codes(16, 974),
    "TamingGumbelVQVAE": codes(32, 2887),
    "TamingFFHQVQVAE": codes(16, 0),
    "PatchVQGAN": {
        **CODEBOOK,
        "encoder_config": objects("Encoder"),
        "decoder_config": objects("Decoder"),
        "quantizer_type": only("EMAVQ", "VQ", default="VQ"),
        **at_default(quantizer_dis_type="euclidean"),
        **unused("the VQ-VAE takes pictures of any size", "token_shape"),
    },
    "Encoder": {**HALF, **IN, **at_default(double_z=False, scale_by_2=None)},
    "Decoder": {**HALF, **OUT, **at_default(scale_by_2=None)},
    "ddconfig": {**HALF, **IN, **OUT, "double_z": only(False, default=True), **at_default(give_pre_end=False)},
    "VQModel": {**VQGAN, **unused("the codes are the same in any shape", "sane_index_shape")},
    "GumbelVQ": VQGAN,
    "Net2NetTransformer": {
        "first_stage_config": objects("VQModel", "GumbelVQ"),
        **unused(SECOND_STAGE, "*"),
    },
}
VQVAES = ("PatchVQGAN", "VQModel", "GumbelVQ", "Net2NetTransformer")
BESIDE_MODEL = {"solver": TRAINING, "dataloader": TRAINING}  # entries of a file

WHERE_CONFIGS_ARE = "The original repository has one for each model, in configs/ or OUTPUT/pretrained_model/."
GUMBEL = {"TamingGumbelVQVAE", "GumbelVQ"}


@dataclass
class Settings:
    """The settings of a config; every value is one that can be converted.

    Attributes:
        option: of the command line, by which the file was given.
        objects: by their name in the config ("model", "transformer_config", ...): for each its settings, with the
            defaults, and as "class" the name of its class.
        unused: settings without effect by their full name, with the reason.
    """

    option: str
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Mapping[str, Any], classes: Iterable[str], option: str) -> "Settings":
        """The settings of a config whose model is of one of ``classes``; refuses what is not implemented."""
        settings = cls(option)
        settings.unused = {f"{option} {name}": BESIDE_MODEL.get(name, IGNORED) for name in config if name != "model"}
        if "model" not in config:
            raise ConversionError(f"{option} lacks 'model'. {WHERE_CONFIGS_ARE}")
        settings._read_object("model", config["model"], Rule(classes=tuple(classes)))
        return settings

    def __getitem__(self, name: str) -> Any:
        """A setting by the name of its object and its own: ``settings["transformer_config.n_head"]``."""
        section, _, key = name.rpartition(".")
        return self.objects[section][key]

    def of_generation(self, key: str) -> Optional[Any]:
        """A setting of the model or of its diffusion_config; None where neither has it."""
        given = {name: self[name] for name in (f"model.{key}", f"diffusion_config.{key}") if self[name] is not None}
        if len(set(given.values())) > 1:
            values = " and ".join(f"{name}: {value}" for name, value in given.items())
            raise ConversionError(f"{self.option} has {values}, which contradict each other: leave one of them out.")
        return next(iter(given.values()), None)

    def refusal(self, name: str, why: str) -> ConversionError:
        """The error for a setting that contradicts something else."""
        return ConversionError(f"{self.option} has {name}: {self[name]}; {why}")

    def check_equal(self, arguments: Mapping[str, Any], network: str = "checkpoint") -> None:
        """Raises ConversionError where a setting differs from the argument of its rule, as the weights determine it."""
        for section, values in self.objects.items():
            for key, rule in RULES[values["class"]].items():
                expected = arguments.get(rule.equals)
                if expected is not None and values.get(key) not in (None, expected):
                    raise self.refusal(f"{section}.{key}", f"the {network} has {expected}: check {self.option}.")

    def check_quantizer(self, class_name: str) -> None:
        """Raises ConversionError where config and VQ-VAE choose their codes differently."""
        classes = {name: values["class"] for name, values in self.objects.items()}
        if GUMBEL.isdisjoint(classes.values()) == (class_name == "GumbelVQModel"):
            name = "content_codec_config" if "content_codec_config" in classes else "model"
            raise self.refusal(f"{name}.class", f"the checkpoint has a {class_name}: check {self.option}.")

    def _read_object(self, name: str, given: Any, rule: Rule) -> None:
        """Reads one object and those in it."""
        if name == "ddconfig":  # its arguments alone
            given = {"target": name, "params": given}
        target = given.get("target") if isinstance(given, dict) else None
        params = (given.get("params") or {}) if isinstance(given, dict) else None
        if not isinstance(target, str) or not isinstance(params, dict):
            raise ConversionError(f"{self.option} has {name} without a target and params. {WHERE_CONFIGS_ARE}")
        if not any(f".{target}".endswith(f".{known}") for known in rule.classes):
            raise ConversionError(f"{self.option} has {name}: {target}; known are {', '.join(rule.classes)}.")
        class_name = target.rsplit(".", 1)[-1]
        rules, values = RULES[class_name], {"class": class_name}
        self.objects[name] = values
        self.unused.update({f"{self.option} {name}.{key}": IGNORED for key in given if key not in ("target", "params")})
        for key in {**rules, **params}:
            own = rules.get(key, UNUSED.get(key, rules.get("*")))
            if own is None:
                raise ConversionError(
                    f"{self.option} has {name}.{key}, which the original {class_name} does not have; known are "
                    f"{', '.join([*rules, *UNUSED])}. Leave it out if it does not change what the model generates."
                )
            if own.unused and key in params:
                self.unused[f"{self.option} {name}.{key}"] = own.unused
            elif not own.unused:
                values[key] = self._read_setting(params, key, name, own)

    def _read_setting(self, params: Mapping[str, Any], key: str, section: str, rule: Rule) -> Any:
        """The value of one setting, checked."""
        value = params.get(key, rule.default)
        if value is REQUIRED:
            raise ConversionError(f"{self.option} lacks {key!r} in {section}. {WHERE_CONFIGS_ARE}")
        if rule.classes and (value is not None or rule.default is REQUIRED):
            self._read_object(key, value, rule)
        if not rule.accepts(value):
            name = f"{section}.{key}"
            given = f"has {name}: {value}" if key in params else f"has no {name}, whose default there is {value}"
            raise ConversionError(f"{self.option} {given}; only {rule.expected} is implemented.")
        return value
