import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import CLIPTextModel

SMALL = dict(
    vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=6, eos_token_id=19,
)  # fmt: skip


def test_a_token_does_not_see_those_after_it():
    model = CLIPTextModel(**SMALL)
    ids = np.array([[18, 3, 4, 5, 19, 19]])
    changed = ids.copy()
    changed[0, 3] = 9
    before, after = (model(Tensor(x, ms.int32))[0].asnumpy() for x in (ids, changed))
    assert np.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not np.allclose(before[:, 3:], after[:, 3:], atol=1e-4)


def test_the_pooled_output_is_at_the_first_end_token():
    model = CLIPTextModel(**SMALL)
    output = model(Tensor([[18, 3, 19, 19, 19, 19], [18, 3, 4, 5, 6, 19]], ms.int32), return_dict=True)
    hidden = output.last_hidden_state.asnumpy()
    assert np.allclose(output.pooler_output.asnumpy(), np.stack([hidden[0, 2], hidden[1, 5]]), atol=1e-6)


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="7 tokens"):
        CLIPTextModel(**SMALL)(Tensor(np.ones((1, 7)), ms.int32))


@pytest.mark.parametrize(
    "wrong, named", [(dict(hidden_act="relu"), "hidden_act"), (dict(num_attention_heads=3), "heads")]
)
def test_impossible_configs_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        CLIPTextModel(**{**SMALL, **wrong})
