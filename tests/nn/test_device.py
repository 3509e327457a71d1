import pytest

from mindone_vq.nn.device import MANY_SCORES, built_for, fused_attention, groups_of_heads, on_cpu


@pytest.mark.parametrize(
    "heads, scores, groups",
    [
        (16, MANY_SCORES // 16, 1),
        (16, MANY_SCORES // 16 + 1, 2),
        (16, MANY_SCORES, 16),
        (16, 10**12, 16),
        (12, MANY_SCORES // 5, 3),
        (7, MANY_SCORES // 6, 7),
        (1, 10**12, 1),
    ],
)
def test_heads_are_divided_into_as_few_equal_groups_as_memory_allows(heads, scores, groups):
    assert groups_of_heads(heads, scores) == groups


def test_cells_are_built_for_the_device_that_computes_unless_told_otherwise():
    assert on_cpu() and not fused_attention()
    with pytest.raises(RuntimeError, match="stop"), built_for("Ascend"):
        assert not on_cpu() and fused_attention()
        with built_for("CPU"):
            assert on_cpu()
        assert not on_cpu()
        raise RuntimeError("stop")
    assert on_cpu()
    with pytest.raises(ValueError, match="'TPU'"), built_for("TPU"):
        pass
