"""What is refused of original checkpoints: files that are missing, damaged, incomplete or of different models."""

import re

import pytest
import torch
import yaml

from mindone_vq.conversion.convert import read_source
from mindone_vq.conversion.networks import ConversionError
from mindone_vq.conversion.options import Options
from tests.parity.original_files import codec_config_text, lightning_content, merges_file, save_from_gpu
from tests.parity.original_models import MODELS, changed, model, refused, without
from tests.parity.original_networks import MERGES, PROMPTS
from tests.shapes32_model import MODEL

# Configs.


@pytest.mark.parametrize("entry", ["n_layer", "n_head", "content_seq_len", "diffusion_step", "transformer_config"])
def test_a_config_without_what_is_needed_is_refused(entry, tmp_path):
    refused(tmp_path / "files", f"lacks '{entry}'", original=changed("coco", (f"{entry}:", f"other_{entry}:")))


@pytest.mark.parametrize(
    "config, expected",
    [
        ("- model\n", "holds no settings"),
        ("model: {params: [\n", "not readable as YAML"),
        ("model: {target: taming.VQModel, params: {n_embed: 48}}\n", "model: taming.VQModel; known are DALLE"),
        ("model: {target: dalle.DALLE}\n", "lacks 'content_codec_config' in model"),
        ("model: 3\n", "has model without a target"),
        ("solver: {}\n", "lacks 'model'. The original repository has one"),
    ],
)
def test_what_is_no_config_of_a_model_is_refused(config, expected, tmp_path):
    refused(tmp_path / "files", expected, original=model("coco").original.changed(config=config))


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"])
def test_a_config_executes_nothing(tag, tmp_path):
    canary = tmp_path / "canary"
    original = model("coco").original
    config = f"{original.config}extra: !!{tag} " + ("''" if "name" in tag else f"['{canary}']") + "\n"
    if "apply" in tag:  # it would, if it were read by the loader that the original code uses
        yaml.unsafe_load(config)
        canary.rmdir()
    refused(tmp_path / "files", "os.mkdir", original=original.changed(config=config))
    assert not canary.exists()


def test_without_a_config_it_is_asked_for(tmp_path):
    refused(tmp_path / "files", "pass its config", config=None)


# Codes.


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda codes: codes[:-1], r"int64 of shape \(47,\), expected 48 integers from 0"),
        (lambda codes: codes[:, None], r"int64 of shape \(48, 1\), expected 48"),
        (lambda codes: torch.where(codes == 7, 0, codes), "has 19 reduced codes up to 19, the denoiser predicts 20"),
        (lambda codes: torch.where(codes == 19, 0, codes), "has 19 reduced codes up to 18, the denoiser predicts 20"),
        (lambda codes: torch.where(codes == 0, 19, codes), "has 19 reduced codes up to 19"),
        (lambda codes: codes.index_fill(0, (codes == 0).nonzero()[-1], 19), "maps several codes to one that is not 0"),
        (lambda codes: codes - 1, "expected 48 integers from 0"),
        (lambda codes: codes.float(), "float32"),
        (lambda codes: {"codes": codes}, "holds a dict, not one tensor"),
    ],
    ids=["length", "dimensions", "gap", "too few", "no 0", "twice", "negative", "type", "container"],
)
def test_a_wrong_map_of_codes_is_refused(change, expected, tmp_path):
    torch.save(change(model("coco").original.codec.map), tmp_path / "wrong.pt")
    refused(tmp_path / "files", expected, codes=tmp_path / "wrong.pt")


def test_a_map_of_codes_is_asked_for_where_the_config_has_one(tmp_path):
    counts = "the VQ-VAE has 48 codes, the denoiser predicts 20"
    refused(tmp_path / "files", f"quantize_number: 20; {counts}: pass the map of codes with --codes", codes=None)
    for number, advice in ((0, "there is no map of codes: leave --codes out"), (48, "check --config")):
        original = changed("coco", ("quantize_number: 20", f"quantize_number: {number}"))
        refused(tmp_path / "files", f"quantize_number: {number}; {counts}: {advice}", original=original)
    original = changed("coco", ("quantize_number: 20", "quantize_number: 0"))
    refused(tmp_path / "files", f"quantize_number: 0; {counts}: check --config", original=original, codes=None)
    torch.save(torch.randperm(12), tmp_path / "codes.pt")
    refused(tmp_path / "files", "leave --codes out", "ithq", codes=tmp_path / "codes.pt")


# Entries.


@pytest.mark.parametrize(
    "prefix, suffix, expected",
    [
        ("content_codec.", "", "no VQ-VAE .*--codec"),
        ("content_codec.enc.", "", "VQ-VAE is not complete"),
        ("content_codec.", "quantize.embed.weight", "its encoder or its codebook is missing"),
        ("transformer.condition_emb.", "", "no text encoder"),
        ("transformer.transformer.", "", "no denoiser"),
    ],
)
def test_a_missing_network_is_named(prefix, suffix, expected, tmp_path):
    refused(tmp_path / "files", expected, original=without("coco", prefix, suffix))


def test_two_codebooks_are_refused(tmp_path):
    original = model("coco").original
    key = "content_codec.dec.quantize.embed.weight"
    other = {**original.model, key: original.model[key] + 1}
    refused(tmp_path / "files", "two different weights for quantize", original=original.changed(model=other))


D, T, V = "transformer.transformer.", "transformer.condition_emb.", "content_codec."
UNKNOWN = {
    f"{D}blocks.0.attn1.rotary": "not in the network: transformer_blocks.0.attn1.rotary",
    f"{T}visual.proj": "visual.proj",
    f"{V}enc.encoder.down.0.block.0.norm3.weight": "0.norm3.weight",
    "discriminator.weight": "unknown entries: discriminator.weight",
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_entry_is_named(key, tmp_path):
    original = model("ithq").original
    changed_model = original.changed(model={**original.model, key: torch.ones(3)})
    refused(tmp_path / "files", UNKNOWN[key], "ithq", changed_model)


def test_an_unknown_entry_of_the_average_is_named(tmp_path):
    original = model("ithq").original
    changed_ema = original.changed(ema={**original.ema, "full_text_embed": torch.ones(3)})
    refused(tmp_path / "files", "unknown entries: transformer.full_text_embed", "ithq", changed_ema)


# Key -> message. The first ones are those that determine the sizes.
MISSING = {
    f"{D}content_emb.emb.weight": "no denoiser",
    f"{D}content_emb.height_emb.weight": "latent_image_embedding.height_emb.weight",
    f"{D}blocks.0.ln1.emb.weight": "transformer_blocks.0.norm1.emb.weight",
    f"{D}blocks.0.mlp.0.weight": "transformer_blocks.0.ff.net.0.proj.weight",
    f"{T}token_embedding.weight": "no text encoder",
    f"{T}positional_embedding": "text_model.embeddings.position_embedding.weight",
    f"{T}transformer.resblocks.0.mlp.c_fc.weight": "text_model.encoder.layers.0.mlp.fc1.weight",
    f"{V}enc.encoder.conv_in.weight": "VQ-VAE is not complete",
    f"{V}enc.encoder.conv_out.weight": "encoder.conv_out.weight",
    f"{V}enc.encoder.down.0.block.0.conv1.weight": "encoder.down_blocks.0.resnets.0.conv1.weight",
    f"{V}dec.decoder.conv_out.weight": "decoder.conv_out.weight",
    f"{D}blocks.1.attn1.query.bias": "missing: transformer_blocks.1.attn1.to_q.bias",
    f"{D}blocks.0.attn2.key.weight": "attn2.to_k",
    f"{D}blocks.1.ln1_1.linear.bias": "missing: transformer_blocks.1.norm2.linear.bias",
    f"{D}to_logits.1.bias": "missing: out.bias .*Check that --config belongs to the checkpoint",
    f"{T}ln_final.bias": "missing: text_model.final_layer_norm.bias",
    f"{T}transformer.resblocks.1.attn.in_proj_bias": "layers.1.self_attn.k_proj.bias",
    f"{V}enc.quantize.proj.bias": "quantize.proj.bias",
    f"{V}dec.post_quant_conv.bias": "missing: post_quant_conv.bias",
    f"{V}dec.decoder.up.0.block.1.norm2.weight": "missing: decoder.up_blocks.1.resnets.1.norm2.weight",
}


@pytest.mark.parametrize("key", MISSING)
def test_a_missing_entry_is_named(key, tmp_path):
    original = model("coco").original
    assert key in original.model
    dropped = {key, key.replace(".enc.quantize", ".dec.quantize")}
    refused(tmp_path / "files", f"(?s){MISSING[key]}", original=original.changed(drop=dropped))


SHAPES = [
    (f"{D}blocks.1.attn1.proj.weight", (24, 23), "attn1.to_out.0.weight is (24, 23)"),
    (f"{D}to_logits.1.weight", (21, 24), "out.weight is (21, 24)"),
    (f"{D}content_emb.width_emb.weight", (6, 24), "width_emb.weight is (6, 24)"),
    (f"{T}ln_final.weight", (1, 128), "final_layer_norm.weight is (1, 128)"),
    (f"{T}transformer.resblocks.0.attn.in_proj_weight", (385, 128), "385 rows, not a multiple of 3"),
    (f"{V}enc.encoder.mid.attn_1.q.weight", (64, 64, 3, 3), "to_q.weight is (64, 64, 3, 3)"),
    (f"{V}dec.decoder.conv_in.bias", (63,), "decoder.conv_in.bias is (63,)"),
]


@pytest.mark.parametrize("key, shape, expected", SHAPES)
def test_a_weight_of_another_shape_is_named(key, shape, expected, tmp_path):
    original = model("coco").original
    assert key in original.model
    wrong = original.changed(model={**original.model, key: torch.zeros(shape)})
    refused(tmp_path / "files", re.escape(expected), original=wrong)


def test_a_text_encoder_of_another_width_is_refused(tmp_path):
    """As one whose embedding is concatenated with itself would be."""
    own = without("coco", T)
    own.model.update({key: value for key, value in model("ithq").original.model.items() if key.startswith(T)})
    refused(tmp_path / "files", "condition_dim: 128; the text encoder has 64", original=own)


@pytest.mark.parametrize("name", ["imagenet", "imagenet without a null class"])
@pytest.mark.parametrize("number", [7, 999])
def test_a_config_of_other_classes_is_refused(name, number, tmp_path):
    """Otherwise the last class would be used as the null class."""
    original = changed(name, (f"class_number: {MODELS[name].class_number}", f"class_number: {number}"))
    refused(tmp_path / "files", f"class_number: {number}; the checkpoint has", name, original)


# Tokenizers.


def test_the_tokenizer_is_asked_for_and_must_fit(tmp_path):
    files = tmp_path / "files"
    refused(files, "pass --tokenizer", tokenizer=None)
    refused(files, r"the tokenizer has \d+ tokens, the text encoder 520", tokenizer=str(MODEL / "tokenizer"))
    short = merges_file(tmp_path / "short.txt", MERGES[:-1])
    refused(files, "does not give 520 tokens", tokenizer=str(short))
    refused(files, "--tokenizer is for a text model", "ffhq", tokenizer=str(short))


def test_of_a_longer_list_of_merges_the_first_are_used(tmp_path):
    """The published list is five times as long as CLIP's vocabulary."""
    longer = merges_file(tmp_path / "longer.txt.gz", [*MERGES, "do re", "re do"])
    plan = model("coco").plan(tmp_path / "files", tokenizer=str(longer))
    assert [plan.tokenizer.encode(prompt) for prompt in PROMPTS] == list(PROMPTS.values())
    assert plan.tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda data: data[:-20], "Compressed file ended"),
        (lambda data: data[:15] + bytes([data[15] ^ 255]) + data[16:], "CRC|invalid|Error"),
        (lambda data: b"words, " * 9, "Not a gzipped file"),
    ],
    ids=["cut", "changed", "other"],
)
def test_a_damaged_list_of_merges_is_refused(change, expected, tmp_path):
    good = merges_file(tmp_path / "good.txt.gz").read_bytes()
    (tmp_path / "bad.txt.gz").write_bytes(change(good))
    expected = f"--tokenizer .*bad.txt.gz is not a complete list of merges: .*({expected})"
    refused(tmp_path / "files", expected, "ithq", tokenizer=str(tmp_path / "bad.txt.gz"))


# VQ-VAEs alone.


def vqvae_options(name: str, text: str, folder, **options) -> Options:
    (folder / "codec.yaml").write_text(text)
    file = save_from_gpu({"model": model(name).original.codec.tensors()}, folder / "codec.pth")
    return Options(str(file), folder / "out", **options)


def test_half_a_vqvae_alone_is_not_blamed_on_a_config(tmp_path):
    weights = model("coco").original.codec.tensors()
    del weights["decoder.conv_out.bias"]
    file = save_from_gpu({"model": weights}, tmp_path / "codec.pth")
    with pytest.raises(ConversionError, match="(?s)missing: decoder.conv_out.bias.*Is the file complete"):
        read_source(Options(str(file), tmp_path / "out")).check()


@pytest.mark.parametrize(
    "content, expected",
    [
        ("model: {target: dalle.DALLE, params: {}}\n", "model: dalle.DALLE; known are PatchVQGAN"),
        ("act_fn: relu\n", "is not the YAML file of a VQ-VAE"),
    ],
)
def test_another_config_for_a_vqvae_is_refused(content, expected, tmp_path):
    with pytest.raises(ConversionError, match=expected):
        read_source(vqvae_options("ithq", content, tmp_path, config=tmp_path / "codec.yaml"))


def test_options_of_whole_models_are_refused_for_a_vqvae_alone(tmp_path):
    path = tmp_path / "codec.yaml"
    for option in ("codes", "codec", "codec_config", "tokenizer", "no_ema"):
        given = {"tokenizer": "me/clip", "no_ema": True}.get(option, path)
        with pytest.raises(ConversionError, match="is for a whole model .*; SOURCE is a VQ-VAE alone"):
            read_source(vqvae_options("ithq", "model: {}\n", tmp_path, **{option: given}))


def test_the_config_of_a_vqvae_in_two_stages_is_checked(tmp_path):
    codec = model("ffhq").original.codec
    inner = yaml.safe_load(codec_config_text(codec))["model"]
    outer = {"target": "cond_transformer.Net2NetTransformer", "params": {"first_stage_config": inner, "pkeep": 1.0}}
    file = save_from_gpu(lightning_content(codec), tmp_path / "codec.pth")
    options = Options(str(file), tmp_path / "out", config=tmp_path / "codec.yaml", ignore_unknown_objects=True)
    options.config.write_text(yaml.safe_dump({"model": outer}))
    assert "second stage" in read_source(options).ignored["--config model.pkeep"]
    inner["params"]["embed_dim"] = 9
    options.config.write_text(yaml.safe_dump({"model": outer}))
    with pytest.raises(ConversionError, match="first_stage_config.embed_dim: 9; the checkpoint has 5"):
        read_source(options)


# (model, old text, new text, message)
VQVAE_CONFIGS = [
    (
        "ithq",
        "quantizer_dis_type: euclidean",
        "quantizer_dis_type: cosine",
        "model.quantizer_dis_type: cosine; only eucl",
    ),
    ("ithq", "quantizer_type: EMAVQ", "quantizer_type: PQEMAVQ", "model.quantizer_type: PQEMAVQ; only EMAVQ or VQ"),
    ("ithq", "trainable: true", "extra: 1", "model.extra, which the original PatchVQGAN does not have"),
    ("ithq", "n_embed: 12", "n_embed: 13", "model.n_embed: 13; the checkpoint has 12"),
    ("ithq", "double_z: false", "resamp_with_conv: false", "encoder_config.resamp_with_conv: False; only True"),
    ("ithq", "double_z: false", "scale_by_2: [1, 0]", "encoder_config.scale_by_2: .*; only None"),
    ("coco", "double_z: false, ", "", "has no ddconfig.double_z, whose default there is True; only False"),
    ("coco", "double_z: false", "double_z: false, give_pre_end: true", "ddconfig.give_pre_end: True; only False"),
    ("coco", "monitor: val/rec_loss", "remap: used.npy", "model.remap: used.npy; only None"),
    ("coco", "z_channels: 6", "z_channels: 8", "ddconfig.z_channels: 8; the checkpoint has 6"),
    ("coco", "in_channels: 3", "in_channels: 1", "ddconfig.in_channels: 1; the checkpoint has 3"),
    ("coco", "GumbelVQ", "VQModel", "class: VQModel; the checkpoint has a GumbelVQModel"),
    ("imagenet", "VQModel", "GumbelVQ", "class: GumbelVQ; the checkpoint has a VQModel"),
]


@pytest.mark.parametrize("name", ["ithq", "coco", "imagenet"])
def test_the_config_of_a_vqvae_is_checked(name, tmp_path):
    made, config = model(name), codec_config_text(model(name).original.codec)
    path = tmp_path / "codec.yaml"
    options = vqvae_options(name, config, tmp_path, config=path)
    plan = read_source(options)
    plan.check()
    assert any("dropout" in key for key in plan.ignored)
    for _, old, new, expected in [row for row in VQVAE_CONFIGS if row[0] == name]:
        assert old in config
        path.write_text(config.replace(old, new))
        with pytest.raises(ConversionError, match=f"--config .*{expected}"):
            read_source(options)
        with pytest.raises(ConversionError, match=f"--codec-config .*{expected}"):
            made.plan(tmp_path / "files", codec_config=path)
