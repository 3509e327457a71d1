"""Pictures as codes: encoded once, kept in a file, read by every step of the training."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from mindspore import Tensor
from tqdm.auto import tqdm

from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.graphs import PictureEncoding
from mindone_vq.training.data.batches import to_pixels
from mindone_vq.training.data.dataset import CaptionedPictures, UnreadablePicture
from mindone_vq.training.devices import Devices
from mindone_vq.weights.files import atomic_file
from mindone_vq.weights.rules import state_dict_parameters

BATCH = 64  # pictures encoded at once


def cached_codes(
    dataset: CaptionedPictures, vqvae: VQModel, size: int, folder: Path, devices: Devices
) -> tuple[np.ndarray, np.ndarray]:
    """The codes of every picture that can be decoded, from ``folder`` if they were made before.

    The file is named by a hash of the dataset, the weights and ``size``: codes of another model are never taken.

    Args:
        dataset: the pictures.
        vqvae: what encodes them.
        size: side of the square that is cut from the middle of each.
        folder: where the file is, or will be.
        devices: the first one encodes, the others read the file.

    Returns:
        (count, pixels) uint16 or int32; and which picture of the dataset each row is, (count,) int64.

    Raises:
        ValueError: no picture can be decoded.
    """
    path = folder / f"codes-{_key(dataset, vqvae, size)}.npz"
    devices.on_first(lambda: path.is_file() or _encode(dataset, vqvae, size, path))
    with np.load(path) as held:
        codes, indices = held["codes"], held["indices"]
    left_out = sorted(set(range(len(dataset))) - set(indices.tolist()))
    dataset.problems.undecodable[:] = (dataset.names[i] for i in left_out)  # also where another process found them
    return codes, indices


def _encode(dataset: CaptionedPictures, vqvae: VQModel, size: int, path: Path) -> None:
    encode, rows, batch = CompiledGraph(PictureEncoding(vqvae), "encoder"), [], []
    entries = {name: i for i, name in enumerate(dataset.names)}  # one for each picture, which may have several captions
    places = {}  # of the codes of each picture
    for number, (name, i) in enumerate(tqdm(entries.items(), desc="Encoding the pictures", unit="picture"), 1):
        with contextlib.suppress(UnreadablePicture):  # counted and named by the dataset
            batch.append(to_pixels(dataset.picture(i), size))
            places[name] = len(places)
        if batch and (len(batch) == BATCH or number == len(entries)):
            pixels = np.stack(batch + batch[:1] * (BATCH - len(batch)))  # filled up: nothing compiles again
            rows.append(encode(Tensor(pixels)).asnumpy()[: len(batch)])
            batch = []
    if not rows:
        raise ValueError(f"None of the {len(entries):,} pictures can be decoded: look at the files.")
    indices = [i for i, name in enumerate(dataset.names) if name in places]
    codes = np.concatenate(rows)[[places[dataset.names[i]] for i in indices]]
    codes = codes.astype(np.uint16) if vqvae.quantize.num_embeddings <= 2**16 else codes
    with atomic_file(path) as file:
        np.savez(file, codes=codes, indices=np.array(indices, np.int64))


def _key(dataset: CaptionedPictures, vqvae: VQModel, size: int) -> str:
    digest = hashlib.sha256(f"{dataset.fingerprint()} {size}".encode())
    for name, parameter in state_dict_parameters(vqvae).items():
        digest.update(name.encode() + parameter.asnumpy().tobytes())
    return digest.hexdigest()[:16]
