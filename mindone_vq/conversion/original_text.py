"""The text encoder, the null text and the tokenizer of microsoft/VQ-Diffusion's text models: OpenAI's CLIP."""

from typing import Optional

from mindone_vq import CLIPTokenizer
from mindone_vq.conversion import infer
from mindone_vq.conversion.original_config import Settings
from mindone_vq.conversion.original_names import TEXT, Entries
from mindone_vq.conversion.plan import Component, ConversionError

CLIP_HEAD_WIDTH, CLIP_PADDING = 64, "!"  # the token of id 0
BYTES = 256  # tokens beyond those that they count: each byte again, at the end of a word


def text_components(
    taken: Entries, settings: Settings, denoiser: Component, tokenizer: Optional[CLIPTokenizer]
) -> list[Component]:
    """The text encoder and the null text."""
    encoder = _text_encoder(taken)
    rows, width, length = (encoder.config[name] for name in ("vocab_size", "hidden_size", "max_position_embeddings"))
    if settings["tokenizer_config.end_idx"] + BYTES != rows:
        raise settings.refuse(
            "tokenizer_config.end_idx", f"the text encoder has {rows} tokens, {BYTES} more than that."
        )
    if settings["condition_codec_config.context_length"] != length:
        raise settings.refuse("condition_codec_config.context_length", f"the text encoder has {length} positions.")
    taken_width = denoiser.config["cross_attention_dim"]
    if taken_width not in (width, None):
        raise ConversionError(
            f"the text encoder has width {width}, the denoiser takes {taken_width}: they are of two models, or the "
            "embedding is changed between them, which is not known here."
        )
    if tokenizer is None:
        raise ConversionError(
            "this model takes text, and CLIP's vocabulary is not in the file: pass --tokenizer with a folder, "
            "a hub id (openai/clip-vit-base-patch32) or their file bpe_simple_vocab_16e6.txt.gz."
        )
    if tokenizer.vocab_size != rows:
        raise ConversionError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the text encoder {rows}: it is another model's."
        )
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        encoder.config[name] = getattr(tokenizer, name)
    return [encoder, _null_text(taken, settings)]


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


def _null_text(taken: Entries, settings: Settings) -> Component:
    """Learned where the checkpoint has it, unless the config says that it is not used."""
    key = "transformer.empty_text_embed"
    learned, learnable = taken.take(key), settings.one("learnable_cf", ("model", "diffusion_config"))
    if learnable and learned is None:
        raise ConversionError(
            f"--config has learnable_cf: True, the checkpoint has no learned null text ({key}): it is another model's, "
            "or learnable_cf must be False, and the null text is then the empty prompt."
        )
    if learnable is False and learned is not None:
        taken.ignored[key] = "--config has learnable_cf: False, so the null text is the empty prompt"
        learned = None
    if learned is None:
        return Component("LearnedClassifierFreeSamplingEmbeddings", {"learnable": False}, {})
    return infer.component_of({"embeddings": learned.cast("float32")}, {})


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
