import mindspore as ms
import pytest

from mindone_vq.nn import configuration, device
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


class TestFusedAttention:
    """The kernel is used where it exists, runs, and is wanted."""

    @pytest.fixture(autouse=True)
    def _npu(self, monkeypatch):
        device._fused_attention_runs.cache_clear()
        monkeypatch.setattr(configuration, "_current", configuration.Configuration())
        monkeypatch.setattr(ms, "get_context", lambda name: {"device_target": "Ascend"}[name])
        monkeypatch.setattr(device, "_processor", lambda: "ascend910b")
        yield
        device._fused_attention_runs.cache_clear()

    def test_a_kernel_that_is_refused_is_reported_once(self, caplog):
        """A CPU has no such kernel: the call of it really fails here."""
        with caplog.at_level("WARNING", logger="mindone_vq"):
            assert [device.fused_attention(), device.fused_attention()] == [False, False]
        assert [record.message.split(";")[0] for record in caplog.records] == [
            "This NPU refuses the fused attention kernel"
        ]

    def test_a_kernel_that_runs_is_used(self, monkeypatch):
        monkeypatch.setattr(device.ops, "flash_attention_score", lambda query, *_, **__: query)
        assert device.fused_attention()
        monkeypatch.setattr(device, "_processor", lambda: "ascend910")
        assert not device.fused_attention()

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_option_decides(self, wanted, monkeypatch):
        monkeypatch.setattr(configuration, "_current", configuration.Configuration(fused_attention=wanted))
        assert device.fused_attention() == wanted
        monkeypatch.setattr(ms, "get_context", lambda name: {"device_target": "CPU"}[name])
        assert not device.fused_attention()
        with device.built_for("Ascend"):
            assert device.fused_attention() == wanted
