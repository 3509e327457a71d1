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
    done = np.arange(11) / 10
    expected = {"masked": 1 - done, "cosine": np.cos(np.pi / 2 * done), "square": 1 - done**2, "cubic": 1 - done**3}
    for name, shares in expected.items():
        found = [SCHEDULE.masked_share(t) for t in spaced(name, SCHEDULE, 10, whole=False)]
        assert np.allclose(found, SCHEDULE.mask[-1] * shares, atol=1e-9), name
    assert np.allclose(np.diff(spaced("uniform", SCHEDULE, 10, whole=False)), -10)
    assert set(SPACINGS) == {"uniform", *expected}


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="'karras'.*uniform, masked, cosine, square, cubic"):
        spaced("karras", SCHEDULE, 10, whole=True)
