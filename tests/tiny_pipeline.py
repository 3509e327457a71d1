"""A pipeline of random weights, a few kilobytes, saved for both sides."""

from mindone_vq import (
    CLIPTextModel,
    CLIPTokenizer,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.weights.store import assign, state_dict_parameters
from tests.shapes32_model import MODEL


def random_weights(cell, rng, spread):
    for parameter in state_dict_parameters(cell).values():
        values = rng.normal(0, spread, parameter.shape) + (1 if parameter.name.endswith("gamma") else 0)
        assign(parameter, values.astype("float32"), parameter.dtype)
    return cell


def random_pipeline(rng, learned_null=True, num_train_timesteps=10, layers=1):
    """Ten timesteps, 12 codes on a 6 x 6 grid; the text encoder and the transformer have ``layers`` each."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    vqvae = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
        latent_channels=6,
        num_vq_embeddings=12,
        vq_embed_dim=6,
        sample_size=12,
    )
    text_encoder = CLIPTextModel(
        vocab_size=tokenizer.vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=layers,
        num_attention_heads=3,
        max_position_embeddings=12,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    transformer = Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=layers,
        cross_attention_dim=24,
        attention_bias=True,
        sample_size=6,
        num_vector_embeds=13,
        activation_fn="geglu-approximate",
        num_embeds_ada_norm=num_train_timesteps,
    )
    null = LearnedClassifierFreeSamplingEmbeddings(learned_null, 24, 12)
    spreads = ((vqvae, 0.2), (text_encoder, 0.2), (transformer, 0.35), (null, 0.2))
    for cell, spread in spreads:
        random_weights(cell, rng, spread)
    scheduler = VQDiffusionScheduler(13, num_train_timesteps)
    pipe = VQDiffusionPipeline(vqvae, text_encoder, tokenizer, transformer, scheduler, null)
    pipe.set_progress_bar_config(disable=True)
    return pipe
