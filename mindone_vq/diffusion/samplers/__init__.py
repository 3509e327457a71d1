"""Ways from x_t to x_s, chosen by name. A new one is a file here and a row in ``SAMPLERS``."""

from typing import Union

from mindone_vq.diffusion.samplers.ancestral import Ancestral
from mindone_vq.diffusion.samplers.confidence import Confidence
from mindone_vq.diffusion.samplers.halton import Halton
from mindone_vq.diffusion.samplers.purity import Purity
from mindone_vq.diffusion.samplers.sampler import Sampler

__all__ = ["SAMPLERS", "Ancestral", "Confidence", "Halton", "Purity", "Sampler", "make_sampler"]

SAMPLERS = {sampler.name: sampler for sampler in (Ancestral, Purity, Confidence, Halton)}


def make_sampler(sampler: Union[str, Sampler]) -> Sampler:
    """The sampler itself, or the one of that name with its default settings.

    Raises:
        TypeError: something else.
        ValueError: an unknown name.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        raise TypeError(f"sampler is a name or a Sampler, given {sampler!r}.")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; it must be one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[sampler]()
