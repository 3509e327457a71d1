import numpy as np
import pytest

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.spacing import SPACINGS, spaced

SCHEDULE = VQDiffusionScheduler(8, 100).schedule


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 99, 100])
def test_whole_timesteps_fall_from_the_last_to_the_clean_picture(name, steps):
    chain = spaced(name, SCHEDULE, steps, whole=True)
    assert len(chain) == steps + 1 and chain[0] == 99 and chain[-1] == -1
    assert all(isinstance(t, int) and t > s for t, s in zip(chain, chain[1:]))


@pytest.mark.parametrize("name", SPACINGS)
def test_other_chains_may_be_longer(name):
    chain = spaced(name, SCHEDULE, 250, whole=False)
    assert len(chain) == 251 and chain[0] == 99 and chain[-1] == -1
    assert all(t > s for t, s in zip(chain, chain[1:]))


def test_spacings_are_what_they_say():
    shares = [[SCHEDULE.masked_share(t) for t in spaced(name, SCHEDULE, 10, whole=False)] for name in SPACINGS]
    done = np.arange(11) / 10
    assert np.allclose(np.diff(spaced("uniform", SCHEDULE, 10, whole=False)), -10)
    assert np.allclose(shares[1], SCHEDULE.mask[-1] * (1 - done))
    assert np.allclose(shares[2], SCHEDULE.mask[-1] * np.cos(np.pi / 2 * done), atol=1e-9)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="'karras'.*uniform, masked, cosine"):
        spaced("karras", SCHEDULE, 10, whole=True)
