"""Ways from x_t to x_s, chosen by name. A new one is a file here and a row in ``SAMPLERS``."""

from mindone_vq.diffusion.samplers.ancestral import Ancestral
from mindone_vq.diffusion.samplers.confidence import Confidence
from mindone_vq.diffusion.samplers.halton import Halton
from mindone_vq.diffusion.samplers.purity import Purity
from mindone_vq.diffusion.samplers.sampler import Sampler, make_sampler

SAMPLERS = {sampler.name: sampler for sampler in (Ancestral, Purity, Confidence, Halton)}

__all__ = ["SAMPLERS", "Ancestral", "Confidence", "Halton", "Purity", "Sampler", "make_sampler"]
