"""CLIPTextModel against transformers'."""

import mindspore as ms
import pytest
import torch
from mindspore import Tensor

from tests.numerics import relative_error
from tests.parity.peers import pair_clip

SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=11,
    bos_token_id=58,
    eos_token_id=59,
)
CONFIGS = {
    "quick_gelu": SMALL,
    "gelu, one head": dict(SMALL, hidden_act="gelu", num_attention_heads=1),
    "end token 2": dict(SMALL, eos_token_id=2),
}


def token_ids(rng, batch, length):
    ids = rng.integers(3, 58, (batch, length))
    ids[:, 0], ids[:, -1], ids[0, length // 2 :] = 58, 59, 59
    return ids


@pytest.mark.parametrize("name", CONFIGS)
def test_both_outputs_agree(name, rng):
    ours, theirs = pair_clip(**CONFIGS[name])
    for batch, length in ((3, 11), (1, 4)):
        ids = token_ids(rng, batch, length)
        expected = theirs(torch.tensor(ids))
        hidden, pooled = ours(Tensor(ids, ms.int32))
        assert relative_error(hidden, expected.last_hidden_state) <= 1e-5
        assert relative_error(pooled, expected.pooler_output) <= 1e-5


def test_float16_stays_close(rng):
    ours, theirs = pair_clip(dtype=ms.float16, **SMALL)
    ids = token_ids(rng, 2, 11)
    assert 0 < relative_error(ours(Tensor(ids, ms.int32))[0], theirs(torch.tensor(ids))[0]) <= 1.5e-2


def test_a_compiled_graph_gives_the_same(rng):
    ours, theirs = pair_clip(**SMALL)
    ids = token_ids(rng, 2, 11)
    hidden, pooled = ms.jit(ours, fullgraph=True)(Tensor(ids, ms.int32))
    assert relative_error(hidden, theirs(torch.tensor(ids)).last_hidden_state) <= 1e-5
    assert relative_error(pooled, theirs(torch.tensor(ids)).pooler_output) <= 1e-5


def test_the_size_of_clip_vit_b_32(rng):
    """77 tokens, 512 wide: the text encoder of the published model, with three of its twelve layers."""
    config = dict(num_hidden_layers=3, vocab_size=1000, eos_token_id=999)
    ours, theirs = pair_clip(**config)
    ids = rng.integers(0, 1000, (2, 77))
    assert relative_error(ours(Tensor(ids, ms.int32))[0], theirs(torch.tensor(ids))[0]) <= 1e-5
