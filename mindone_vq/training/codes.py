"""Pictures as codes: encoded once, kept in a file, read by every step of the training."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from mindspore import Tensor
from tqdm.auto import tqdm

from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.graphs import PictureEncoding
from mindone_vq.training.batches import to_pixels
from mindone_vq.training.data import CaptionedPictures, UnreadablePicture
from mindone_vq.weights.files import atomic_file
from mindone_vq.weights.rules import state_dict_parameters

logger = logging.getLogger("mindone_vq")


def cached_codes(
    dataset: CaptionedPictures, vqvae: VQModel, size: int, folder: Path, batch_size: int = 64, show: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The codes of every picture that can be decoded, from ``folder`` if they were made before.

    The file is named by a hash of the dataset, the weights and ``size``: codes of another model are never taken.

    Args:
        dataset: the pictures.
        vqvae: what encodes them.
        size: side of the square that is cut from the middle of each.
        folder: where the file is, or will be.
        batch_size: pictures encoded at once.
        show: a progress bar.

    Returns:
        (count, pixels) uint16 or int32; and which picture of the dataset each row is, (count,) int64.
    """
    path = folder / f"codes-{_key(dataset, vqvae, size)}.npz"
    if path.is_file():
        with np.load(path) as held:
            codes, indices = held["codes"], held["indices"]
        left_out = sorted(set(range(len(dataset))) - set(indices.tolist()))
        dataset.problems.undecodable += dict.fromkeys(dataset.name(i) for i in left_out)  # as when they were made
        return codes, indices
    encode = CompiledGraph(PictureEncoding(vqvae), "encoder")
    rows, indices, waiting = [], [], []

    def encode_waiting() -> None:
        pixels = np.stack(waiting + waiting[:1] * (batch_size - len(waiting)))  # filled up: nothing compiles again
        rows.append(encode(Tensor(pixels)).asnumpy()[: len(waiting)])
        waiting.clear()

    for i in tqdm(range(len(dataset)), desc="Encoding the pictures", unit="picture", disable=not show):
        try:
            waiting.append(to_pixels(dataset.picture(i), size))
        except UnreadablePicture:
            continue  # counted and named by the dataset
        indices.append(i)
        if len(waiting) == batch_size:
            encode_waiting()
    if waiting:
        encode_waiting()
    if not rows:
        raise ValueError(f"not one of {len(dataset):,} pictures can be decoded: look at the files.")
    codes = np.concatenate(rows)
    codes = codes.astype(np.uint16) if vqvae.quantize.num_embeddings <= 2**16 else codes
    with atomic_file(path) as file:
        np.savez(file, codes=codes, indices=np.array(indices, np.int64))
    return codes, np.array(indices, np.int64)


def _key(dataset: CaptionedPictures, vqvae: VQModel, size: int) -> str:
    digest = hashlib.sha256(f"{dataset.fingerprint()} {size}".encode())
    for name, parameter in state_dict_parameters(vqvae).items():
        digest.update(name.encode() + parameter.asnumpy().tobytes())
    return digest.hexdigest()[:16]
