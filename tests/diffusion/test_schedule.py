import numpy as np
import pytest

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.schedule import CLEAN, TransitionSchedule
from tests.diffusion.brute_force import matrix

PUBLISHED = VQDiffusionScheduler(4097).schedule


def test_the_published_schedule_is_nearly_mask_only_but_never_quite():
    assert np.allclose(PUBLISHED.keep + PUBLISHED.num_classes * PUBLISHED.replace + PUBLISHED.mask, 1, atol=1e-15)
    assert np.allclose(PUBLISHED.num_classes * PUBLISHED.replace, 1e-6, rtol=1e-6)
    assert all(PUBLISHED.between(t, t - 1)[1] > 0 for t in range(100))


def test_jumps_compose_to_the_cumulative_process():
    schedule = TransitionSchedule.linear(5, 12, 0.97, 0.02, 0.01, 0.9)
    for t, s in ((11, 3), (7, 6), (4, CLEAN)):
        steps = [matrix(*schedule.between(i, i - 1), 5) for i in range(s + 1, t + 1)]
        product = np.linalg.multi_dot(steps) if len(steps) > 1 else steps[0]
        assert np.allclose(product, matrix(*schedule.between(t, s), 5), atol=1e-14)
    assert schedule.between(9, CLEAN) == pytest.approx(schedule.cumulative(9))


def test_rows_of_a_jump_are_probabilities():
    schedule = TransitionSchedule.linear(5, 12, 0.97, 0.02, 0.01, 0.9)
    assert np.allclose(matrix(*schedule.between(8, 2), 5).sum(1), 1, atol=1e-15)


@pytest.mark.parametrize("wrong", [(1.0, 0.1, 0.1, 0.9), (0.9, 0.0, 0.01, 0.9), (0.9, 0.5, 0.01, 0.6)])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="sum below 1"):
        TransitionSchedule.linear(5, 10, *wrong)
