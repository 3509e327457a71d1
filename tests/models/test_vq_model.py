import resource

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQEncoderOutput, VQModel
from mindone_vq.models.vq_model import VectorQuantizer

SMALL = dict(
    block_out_channels=(8, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
    latent_channels=4,
    num_vq_embeddings=10,
)


def test_every_vector_goes_to_its_nearest_entry(rng):
    quantizer = VectorQuantizer(10, 4)
    quantizer.embedding.embedding_table.set_data(Tensor(rng.standard_normal((10, 4)).astype(np.float32)))
    codebook = quantizer.embedding.embedding_table.asnumpy()
    z = rng.standard_normal((2, 4, 3, 5)).astype(np.float32)
    quantized, loss, indices = quantizer(Tensor(z))
    distances = ((z.transpose(0, 2, 3, 1)[..., None, :] - codebook) ** 2).sum(-1)
    assert np.array_equal(indices.asnumpy(), distances.argmin(-1))
    assert np.allclose(quantized.asnumpy().transpose(0, 2, 3, 1), codebook[indices.asnumpy()], atol=1e-6)
    assert float(loss) == pytest.approx(1.25 * distances.min(-1).mean() / 4, rel=1e-5)


def test_the_gradient_passes_straight_through(rng):
    quantizer = VectorQuantizer(10, 4)
    z = Tensor(rng.standard_normal((1, 4, 3, 3)).astype(np.float32))
    weights = Tensor(rng.standard_normal((1, 4, 3, 3)).astype(np.float32))
    gradient = ms.grad(lambda z: (quantizer(z)[0] * weights).sum())(z)
    assert np.allclose(gradient.asnumpy(), weights.asnumpy())


def test_no_array_of_pixels_by_classes_by_channels_is_made(rng):
    """At this size it would take 8.6 GB; the matrix of distances takes 67 MB."""
    quantizer = VectorQuantizer(4096, 128)
    z = Tensor(rng.standard_normal((4, 128, 32, 32)).astype(np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    quantizer(z)[2].asnumpy()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000  # kilobytes


def test_outputs_come_as_objects_when_asked_for():
    model = VQModel(**SMALL)
    encoded = model.encode(Tensor(np.zeros((1, 3, 8, 8), np.float32)), return_dict=True)
    assert isinstance(encoded, VQEncoderOutput)
    assert encoded.latents.shape == (1, 4, 4, 4)
    decoded = model.decode(encoded.latents, return_dict=True)
    assert decoded.sample.shape == (1, 3, 8, 8)
    assert decoded.commit_loss.ndim == 0


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(block_out_channels=(8,)), "same levels"),
        (dict(norm_type="batch"), "norm_type"),
        (dict(act_fn="tanh"), "act_fn"),
        (dict(down_block_types=("DownBlock2D",) * 2), "down_block_types"),
        (dict(up_block_types=("UpBlock2D",) * 2), "up_block_types"),
        (dict(norm_num_groups=3), "norm_num_groups"),
        (dict(norm_type="spatial", vq_embed_dim=5), "vq_embed_dim"),
    ],
)
def test_impossible_configs_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        VQModel(**{**SMALL, **wrong})
