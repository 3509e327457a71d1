"""The transformer block of VQ-Diffusion (arXiv 2111.14822, section 4.2)."""

from typing import Optional

from mindspore import Tensor, nn, ops

from mindone_vq.nn.attention import Attention, ScaledDotProductAttention
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.normalization import AdaLayerNorm, LayerNorm


class BasicTransformerBlock(nn.Cell):
    """Self-attention, cross-attention to the text, feed-forward; each after its norm, each with a residual.

    What the timestep and the condition contribute is computed by ``modulations`` and ``context``. In generation that is
    done once a call, and ``conditioned`` does the rest of each step. All of them are given weights: one compiled block
    serves every layer.

    Args:
        dim: size of a token.
        heads, dim_head: of both attentions.
        feed_forward: ``FeedForward`` or ``ConvFeedForward``.
        num_embeds_ada_norm: timesteps, which modulate the norms before attention; None: plain norms.
        cross_attention_dim: size of the text embeddings; None: no cross-attention.
        num_class_embeds: classes, which modulate the norm before the feed-forward layer; None: a plain norm.
        attention_bias: whether query, key and value projections have a bias.
        dropout: on the outputs of attention, in training.
        norm_elementwise_affine, norm_eps: of the plain norms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        feed_forward: nn.Cell,
        num_embeds_ada_norm: Optional[int] = None,
        cross_attention_dim: Optional[int] = None,
        num_class_embeds: Optional[int] = None,
        attention_bias: bool = False,
        dropout: float = 0.0,
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()

        def norm(num_embeddings: Optional[int]) -> nn.Cell:
            if num_embeddings is None:
                return LayerNorm(dim, norm_eps, norm_elementwise_affine)
            return AdaLayerNorm(dim, num_embeddings)

        self.has_timestep = num_embeds_ada_norm is not None
        self.has_text, self.has_class = cross_attention_dim is not None, num_class_embeds is not None
        self.norm1 = norm(num_embeds_ada_norm)
        self.attn1 = Attention(dim, heads, dim_head, bias=attention_bias, dropout=dropout)
        if self.has_text:
            self.norm2 = norm(num_embeds_ada_norm)
            self.attn2 = Attention(dim, heads, dim_head, cross_attention_dim, attention_bias, dropout)
        self.norm3 = norm(num_class_embeds)
        self.ff = feed_forward

    def weights(self) -> Weights:
        """The weights of every layer in the block, by name."""
        weights = {
            "norm1": self.norm1.weights(),
            "attn1": self.attn1.weights(),
            "norm3": self.norm3.weights(),
            "ff": self.ff.weights(),
        }
        if self.has_text:
            weights["norm2"] = self.norm2.weights()
            weights["attn2"] = self.attn2.weights()
        return weights

    def prepared(self, weights: Weights, is_centred: bool = False) -> Weights:
        """The weights as the other methods take them; see ``Attention.prepared`` and ``FeedForward.prepared``.

        Args:
            weights: those of ``weights``, of a layer of the same shape.
            is_centred: whether what the block adds to its input has mean zero.
        """
        prepared = {"norm1": weights["norm1"], "norm3": weights["norm3"]}
        prepared["attn1"] = self.attn1.prepared(weights["attn1"], is_centred)
        prepared["ff"] = self.ff.prepared(weights["ff"], is_centred)
        if self.has_text:
            prepared["norm2"], prepared["attn2"] = weights["norm2"], self.attn2.prepared(weights["attn2"], is_centred)
        return prepared

    def modulations(self, timestep: Tensor, weights: Weights) -> tuple[Tensor, ...]:
        """What modulates the norms before attention.

        Args:
            timestep: (n,) integers.
            weights: from ``prepared``.

        Returns:
            A factor and a shift, (n, dim) each, for each of these norms; empty where the timestep modulates none.
        """
        if not self.has_timestep:
            return ()
        first = self.norm1.modulation(timestep, weights["norm1"])
        return first + self.norm2.modulation(timestep, weights["norm2"]) if self.has_text else first

    def context(self, condition: Optional[Tensor], weights: Weights) -> tuple[Tensor, ...]:
        """What the condition contributes, the same at every timestep.

        Args:
            condition: text embeddings (batch, length, cross_attention_dim), or classes (batch,), or None.
            weights: from ``prepared``.

        Returns:
            Keys and values of a text, (batch, ...) as attention takes them; factor and shift by a class, (batch, dim)
            each; or nothing. All of one shape.
        """
        if self.has_text:
            attention, projections = self.attn2, weights["attn2"]
            key = attention.product(condition, projections["to_k"])
            value = attention.product(condition, projections["to_v"])
            return attention.attend.split(key), attention.attend.split(value)
        if self.has_class:
            return self.norm3.modulation(condition, weights["norm3"])
        return ()

    def construct(self, x: Tensor, condition: Optional[Tensor], timestep: Tensor) -> Tensor:
        """One layer: x (batch, tokens, dim); condition: as in ``context``; timestep (batch,) -> as x."""
        weights = self.prepared(self.weights())
        return self.conditioned(x, self.modulations(timestep, weights), self.context(condition, weights), weights)

    def conditioned(
        self,
        x: Tensor,
        modulations: tuple[Tensor, ...],
        context: tuple[Tensor, ...],
        weights: Weights,
        is_centred: bool = False,
    ) -> Tensor:
        """One layer, with what its timestep and its condition contribute.

        Args:
            x: (batch, tokens, dim).
            modulations: from ``modulations``, for one timestep or for one of each image.
            context: from ``context``.
            weights: from ``prepared``.
            is_centred: every token of x has mean zero, and the weights are prepared so that the result has it too.

        Returns:
            (batch, tokens, dim).
        """
        qkv = self.attention_inputs(x, modulations, weights, is_centred)
        attended = self.attn1.attend.attend(*self.attn1.attend.split_qkv(qkv))
        return self.after_attention(x, attended, modulations, context, weights, is_centred)

    def attention_inputs(
        self, x: Tensor, modulations: tuple[Tensor, ...], weights: Weights, is_centred: bool
    ) -> Tensor:
        """Queries, keys and values of the self-attention, (batch, tokens, 3 * heads * head_dim)."""
        affine = modulations[:2] if self.has_timestep else (weights["norm1"],)
        normalized = self.norm1(x, *affine, is_centred)
        return self.attn1.product(normalized, weights["attn1"]["to_qkv"])

    def after_attention(
        self,
        x: Tensor,
        attended: Tensor,
        modulations: tuple[Tensor, ...],
        context: tuple[Tensor, ...],
        weights: Weights,
        is_centred: bool,
    ) -> Tensor:
        """The rest of the block, after self-attention gave ``attended``, (batch, tokens, heads * head_dim)."""
        x = x + self.attn1.output(attended, weights["attn1"])
        if self.has_text:
            affine = modulations[2:] if self.has_timestep else (weights["norm2"],)
            normalized = self.norm2(x, *affine, is_centred)
            query = self.attn2.attend.split(self.attn2.product(normalized, weights["attn2"]["to_q"]))
            x = x + self.attn2.output(self.attn2.attend.attend(query, *context), weights["attn2"])
        affine = context if self.has_class else (weights["norm3"],)
        normalized = self.norm3(x, *affine, is_centred)
        return x + self.ff(normalized, weights["ff"])


class HeadGroup(nn.Cell):
    """Self-attention of some of the heads, so that fewer scores are in memory at a time.

    Args:
        heads: all.
        groups: of how many equal groups one attends.
    """

    def __init__(self, heads: int, groups: int) -> None:
        super().__init__(auto_prefix=False)
        self.groups, self.attention = groups, ScaledDotProductAttention(heads // groups)

    def construct(self, qkv: Tensor, group: Tensor) -> Tensor:
        """qkv: (batch, tokens, 3 * dim); group: its index, (1,) int32 -> (batch, tokens, dim / groups)."""
        batch, tokens, width = qkv.shape
        parts = qkv.reshape(batch * tokens * 3, self.groups, width // 3 // self.groups)
        own = ops.gather(parts, group, 1).reshape(batch, tokens, width // self.groups)
        return self.attention.attend(*self.attention.split_qkv(own))
