"""The text encoder of CLIP (arXiv 2103.00020, section 2.4)."""

from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.nn.activations import CLIP, get_activation
from mindone_vq.nn.attention import ScaledDotProductAttention
from mindone_vq.nn.normalization import LayerNorm
from mindone_vq.outputs import output
from mindone_vq.weights.config import register_to_config
from mindone_vq.weights.pretrained import PretrainedCell


@output
class CLIPTextOutput(NamedTuple):
    """last_hidden_state: (batch, length, hidden_size); pooler_output: (batch, hidden_size), at the end token."""

    last_hidden_state: Tensor
    pooler_output: Tensor


class CLIPAttention(nn.Cell):
    """Multi-head self-attention under CLIP's parameter names."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.attend = ScaledDotProductAttention(heads)
        self.k_proj = nn.Dense(hidden_size, hidden_size)
        self.v_proj = nn.Dense(hidden_size, hidden_size)
        self.q_proj = nn.Dense(hidden_size, hidden_size)
        self.out_proj = nn.Dense(hidden_size, hidden_size)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out_proj(self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask))


class CLIPMLP(nn.Cell):
    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: str) -> None:
        super().__init__()
        self.activation_fn = get_activation(CLIP, hidden_act, "hidden_act")
        self.fc1 = nn.Dense(hidden_size, intermediate_size)
        self.fc2 = nn.Dense(intermediate_size, hidden_size)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


class CLIPEncoderLayer(nn.Cell):
    def __init__(self, hidden_size: int, intermediate_size: int, heads: int, hidden_act: str, eps: float) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(hidden_size, heads)
        self.layer_norm1 = LayerNorm(hidden_size, eps)
        self.mlp = CLIPMLP(hidden_size, intermediate_size, hidden_act)
        self.layer_norm2 = LayerNorm(hidden_size, eps)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nn.Cell):
    def __init__(self, layers: list[CLIPEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.CellList(layers)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class CLIPTextEmbeddings(nn.Cell):
    """Token embedding + position embedding."""

    def __init__(self, vocab_size: int, hidden_size: int, max_position_embeddings: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size)
        self.position_embedding = nn.Embedding(max_position_embeddings, hidden_size)

    def construct(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embedding.embedding_table[: input_ids.shape[1]]  # (length, hidden_size)
        return self.token_embedding(input_ids) + positions.expand_dims(0)


class CLIPTextTransformer(nn.Cell):
    def __init__(self, embeddings: CLIPTextEmbeddings, encoder: CLIPEncoder, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.final_layer_norm = LayerNorm(hidden_size, eps)

    def construct(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids), mask))


class CLIPTextModel(PretrainedCell):
    """CLIP's text encoder, with the config and the weight names of transformers.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, max_position_embeddings,
            layer_norm_eps: as in transformers.
        hidden_act: "quick_gelu" or "gelu".
        eos_token_id: the token at which the pooled output is taken. 2, a known error in old configs, means the largest
            id of the prompt.
        bos_token_id, pad_token_id, projection_dim, attention_dropout: not used; kept for the config.
    """

    weights_stems = ("model", "pytorch_model")
    output_class = CLIPTextOutput

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 49408,
        hidden_size: int = 512,
        intermediate_size: int = 2048,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 8,
        max_position_embeddings: int = 77,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        eos_token_id: int = 49407,
        bos_token_id: int = 49406,
        pad_token_id: int = 1,
        projection_dim: int = 512,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} cannot be split into {num_attention_heads} heads.")
        self.max_length, self.eos_token_id = max_position_embeddings, eos_token_id
        layers = [
            CLIPEncoderLayer(hidden_size, intermediate_size, num_attention_heads, hidden_act, layer_norm_eps)
            for _ in range(num_hidden_layers)
        ]
        self.text_model = CLIPTextTransformer(
            CLIPTextEmbeddings(vocab_size, hidden_size, max_position_embeddings),
            CLIPEncoder(layers),
            hidden_size,
            layer_norm_eps,
        )
        # (length, length): a token does not attend to later ones
        self.causal_mask = Tensor(np.triu(np.full((max_position_embeddings,) * 2, -1e9, np.float32), k=1))

    def construct(self, input_ids: Tensor, return_dict: bool = True) -> CLIPTextOutput:
        """input_ids: (batch, length <= max_position_embeddings) integers -> (last_hidden_state, pooler_output)."""
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"a prompt has {length} tokens; this model takes {self.max_length}.")
        last_hidden_state = self.text_model(input_ids, self.causal_mask[:length, :length])
        is_end = input_ids if self.eos_token_id == 2 else input_ids == self.eos_token_id
        end = ops.argmax(is_end.astype(ms.int32), dim=-1)  # the first one
        pooler_output = ops.gather(last_hidden_state, end.expand_dims(-1), 1, 1).squeeze(1)  # (batch, hidden_size)
        return last_hidden_state, pooler_output

    @property
    def hidden_size(self) -> int:
        """Channels of a text embedding."""
        return self.config["hidden_size"]

    @classmethod
    def load_config(cls, *source: Any, **options: Any) -> dict[str, Any]:
        """The arguments in transformers' config, without its entries about training and generation."""
        return {key: value for key, value in super().load_config(*source, **options).items() if key in cls.arguments()}

    def config_to_save(self) -> dict[str, Any]:
        own = {key: value for key, value in self.config.items() if not key.startswith("_")}
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **own}
