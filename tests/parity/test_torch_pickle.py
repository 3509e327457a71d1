import argparse
import io
import itertools
import math
import os
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mindone_vq.weights.lazy import STORED_AS, LazyTensor
from mindone_vq.weights.torch_pickle import UnreadableCheckpoint, open_checkpoint
from mindone_vq.weights.torch_tensors import ElementType, Storage

# (whether it is the zip archive, the protocol of the pickle)
FORMATS = list(itertools.product([True, False], [2, 3, 4, 5]))
DTYPES = [getattr(torch, name) for name in STORED_AS]


def written(value, path, is_zip=True, protocol=2):
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def random_tensor(shape, dtype, generator):
    """Every pattern of bits is possible."""
    data = torch.randint(256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return (data & 1 if dtype == torch.bool else data).view(dtype).reshape(shape)


def random_view(tensor, rng):
    """The tensor, or part of it, in one of the ways in which PyTorch shows a storage."""
    if tensor.ndim == 0:
        return tensor if rng.random() < 0.5 else tensor.expand(rng.integers(1, 4, rng.integers(1, 4)).tolist())
    axis = int(rng.integers(tensor.ndim))
    n = tensor.shape[axis]
    start = int(rng.integers(n + 1))
    ways = [
        lambda: tensor,
        lambda: tensor.permute(rng.permutation(tensor.ndim).tolist()),
        lambda: tensor.transpose(0, axis).narrow(0, start, n - start),
        lambda: tensor.narrow(axis, start, n - start),
        lambda: tensor[..., ::2],
        lambda: tensor.select(axis, start - 1) if start else tensor,
        lambda: tensor.unsqueeze(axis).expand(*tensor.shape[:axis], 3, *tensor.shape[axis:]),
        lambda: tensor.diagonal(0, 0, axis) if axis else tensor.flatten(),
    ]
    view = ways[rng.integers(len(ways))]()
    return view if rng.random() < 0.6 else random_view(view, rng)


def bits_of(tensor):
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1)).view(torch.uint8)
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), flat.numpy().tobytes()


def bits(lazy):
    array = lazy.read_stored()
    assert array.dtype == STORED_AS[lazy.dtype] and array.shape == lazy.shape and array.size == lazy.size
    return lazy.shape, lazy.dtype, array.tobytes()


def same(ours, theirs):
    """Whether what is read is what PyTorch wrote. A device becomes None, a torch.Size a tuple, a set a list."""
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, LazyTensor) and bits(ours) == bits_of(theirs)
    if isinstance(theirs, dict):
        return (
            type(ours) is type(theirs)
            and list(ours) == list(theirs)
            and all(same(ours[key], theirs[key]) for key in theirs)
        )
    if isinstance(theirs, (list, tuple)):
        kind = list if isinstance(theirs, list) else tuple
        return type(ours) is kind and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, torch.device):
        return ours is None
    if isinstance(theirs, torch.dtype):
        return isinstance(ours, ElementType) and f"torch.{ours}" == str(theirs)
    return type(ours) is type(theirs) and ours == theirs


def assert_read(value, path, is_zip=True, protocol=2):
    tree, ignored = open_checkpoint(written(value, path, is_zip, protocol))
    assert same(tree, value) and not ignored


@pytest.mark.parametrize("is_zip, protocol", FORMATS)
def test_every_type_is_read_bit_for_bit(is_zip, protocol, tmp_path):
    generator = torch.Generator().manual_seed(protocol)
    shapes = [(), (1,), (0,), (7,), (3, 0, 2), (2, 3, 4), (1, 2, 1, 3, 1, 2, 1), (1,) * 32]
    value = {f"{dtype} {shape}": random_tensor(shape, dtype, generator) for dtype in DTYPES for shape in shapes}
    assert_read(value, tmp_path / "x.pt", is_zip, protocol)


@pytest.mark.parametrize("is_zip", [True, False])
def test_random_views_are_read_bit_for_bit(is_zip, tmp_path):
    generator, rng = torch.Generator().manual_seed(3), np.random.default_rng(3)
    value, strides = [], set()
    for i in range(300):
        shape = rng.integers(0 if i % 9 == 0 else 1, 7, rng.integers(0, 5)).tolist()
        tensor = random_tensor(shape, DTYPES[i % len(DTYPES)], generator)
        value += [random_view(tensor, rng) for _ in range(rng.integers(1, 4))]  # of one storage
    for tensor in value:
        strides |= {tensor.is_contiguous(), 0 in tensor.stride(), tensor.storage_offset() > 0}
    assert strides == {True, False}
    assert_read(value, tmp_path / "x.pt", is_zip)


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_that_share_a_storage_are_read_each_for_itself(is_zip, tmp_path):
    base = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
    narrow = torch.arange(24, dtype=torch.int32).view(torch.uint16)
    value = {
        "all": base,
        "transposed": base.t(),
        "slices": [base[3:30:4, 5::7], base[1], base[:, 2], base[-1, -1], base[40:], base[5:5]],
        "expanded": base[7, 8].expand(5, 6),
        "windows": base.view(-1).unfold(0, 5, 3),
        "diagonal": base.diagonal(3),
        # Types that PyTorch writes as untyped bytes; of other types it refuses to write two views of one storage.
        "as 16 bits": narrow[3:],
        "as 32 bits": narrow.view(torch.uint32),
        "as 64 bits": narrow.view(torch.uint64)[1:],
        "bytes of floats": torch.randn(6, dtype=torch.float64).view(torch.uint8)[8:-8],
    }
    assert_read(value, tmp_path / "x.pt", is_zip)


def test_what_is_read_once_is_read_the_same_again(tmp_path):
    base = torch.arange(1000.0).reshape(10, 100)
    ours = open_checkpoint(written([base[2:5], base, base[::2]], tmp_path / "x.pt"))[0]
    for _ in range(2):
        assert all(map(same, ours, [base[2:5], base, base[::2]]))


@pytest.mark.parametrize("shape", [(256, 256), (2, 0), ()])
def test_bfloat16_is_widened_exactly(shape, tmp_path):
    theirs = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    theirs = theirs[1000] if shape == () else theirs[: math.prod(shape)].reshape(shape)
    ours = open_checkpoint(written(theirs, tmp_path / "x.pt"))[0]
    expected = theirs.float().numpy()
    for array in (ours.read(), ours.cast("float32").read_stored()):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32 and array.shape == shape
        number = ~np.isnan(expected)
        assert np.array_equal(np.isnan(array), ~number)
        assert np.array_equal(array[number].view(np.uint32), expected[number].view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_floats_are_rounded_as_pytorch_rounds_them(dtype, tmp_path):
    generator = torch.Generator().manual_seed(8)
    theirs = random_tensor((40_000,), torch.float32, generator)
    theirs = torch.cat([theirs, torch.randn(5000, generator=generator), torch.tensor([0.0, -0.0, np.inf, 1 + 2**-8])])
    theirs = theirs[~theirs.isnan()]
    for value in (theirs, theirs[7]):
        ours = open_checkpoint(written(value, tmp_path / "x.pt"))[0].cast(str(dtype).removeprefix("torch."))
        assert bits(ours) == bits_of(value.to(dtype))


@pytest.mark.parametrize("is_zip, protocol", FORMATS)
def test_containers_and_what_is_in_them(is_zip, protocol, tmp_path):
    generator = torch.Generator().manual_seed(5)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Embedding(5, 2))
    network.register_buffer("extra", torch.nn.Buffer(torch.randn(3, generator=generator)))
    network[0].weight.note = "a parameter with an attribute"
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in network.parameters()).requires_grad_()
    with torch.enable_grad():
        network[0](torch.randn(2, 4, generator=generator)).sum().backward()
    optimizer.step()
    state = network.state_dict(keep_vars=True)
    assert state._metadata and isinstance(state["0.weight"], torch.nn.Parameter)
    value = {
        "model": state,
        "ema": OrderedDict((key, tensor.detach().clone()) for key, tensor in state.items()),
        "state_dict": {"nested": {"a": [torch.ones(2), (torch.zeros(3), [])], "b": OrderedDict(), "c": {}}},
        "optimizer": optimizer.state_dict(),
        "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), 1.5, -0.0, 1e300, float("inf"), True, False],
        "text": ["", "plain", "größer 大", "x" * 300, b"bytes \x00\xff", None],
        "torch": [torch.Size([2, 3]), torch.Size([]), torch.device("cuda:1"), torch.device("cpu"), *DTYPES],
        "keys": {1: "int", None: "none", (1, "a"): "tuple", 2.5: "float"},
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    }
    value["again"] = value["tuples"]
    assert_read(value, tmp_path / "x.pt", is_zip, protocol)


def test_a_tensor_alone_and_a_network_in_training(tmp_path):
    network = torch.nn.Conv2d(3, 4, 3)
    assert_read(network.weight, tmp_path / "x.pt")
    assert_read(network.state_dict(), tmp_path / "y.pt")
    assert_read({"half": network.half().state_dict(), "list": list(network.parameters())}, tmp_path / "z.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_of_other_devices_are_read_like_any(is_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    value = {"weight": torch.randn(3, 4), "index": torch.arange(5)}
    path = written(value, tmp_path / "x.pt", is_zip)
    assert b"cuda:0" in path.read_bytes()
    assert same(open_checkpoint(path)[0], value)


@pytest.mark.parametrize("stem", ["archive", "epoch=3-step=4", "2022-10-01 12:30:00", "веса", "v1..final"])
def test_the_name_of_the_file_does_not_matter(stem, tmp_path):
    value = {"weight": torch.arange(6).reshape(2, 3)}
    path = written(value, tmp_path / f"{stem}.ckpt")
    assert (stem if stem.isascii() else "archive").encode() in path.read_bytes()
    assert same(open_checkpoint(path)[0], value)
    assert same(open_checkpoint(path.rename(tmp_path / "other.bin"))[0], value)


def test_a_file_written_through_a_buffer(tmp_path):
    value, buffer = {"weight": torch.arange(6).reshape(2, 3)}, io.BytesIO()
    torch.save(value, buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    assert same(open_checkpoint(tmp_path / "x.pt")[0], value)


class Callback:
    """As Lightning pickles them; here one that tells if its code was run."""

    def __init__(self, canary):
        self.state = {"best": torch.ones(2), "canary": str(canary)}

    def __setstate__(self, state):
        Path(state["state"]["canary"]).touch()


class Reduced:
    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


class Kept(dict):
    pass


@pytest.mark.parametrize("is_zip, protocol", FORMATS)
def test_objects_of_unknown_classes_are_refused_or_passed_over_and_never_made(is_zip, protocol, tmp_path):
    canaries = [tmp_path / "set state", tmp_path / "reduced"]
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(7)}
    value = {
        "state_dict": tensors,
        "callbacks": {Callback: Callback(canaries[0])},
        "hyper_parameters": argparse.Namespace(rate=1e-3, name="x", weight=torch.ones(3)),
        "reduced": [Reduced(canaries[1])],
        "scalar": np.float32(2.5),
        "array": np.arange(3),
        "kept": Kept(x=torch.zeros(1)),
        "set": {1, 2},
        "path": Path("x"),
        "last": tensors["a"].t(),
    }
    path = written(value, tmp_path / "x.ckpt", is_zip, protocol)
    with pytest.raises(UnreadableCheckpoint, match=r"test_torch_pickle\.Callback"):
        open_checkpoint(path)
    tree, ignored = open_checkpoint(path, ignore_unknown=True)
    assert same(tree["state_dict"], tensors) and same(tree["last"], tensors["a"].t())
    expected = {f"{__name__}.Callback", f"{__name__}.Kept", "argparse.Namespace", f"{os.mkdir.__module__}.mkdir"}
    assert ignored >= expected and any(kind.endswith("multiarray.scalar") for kind in ignored)
    assert not any(kind.startswith(("torch", "collections")) for kind in ignored)
    assert not any(canary.exists() for canary in canaries)
    torch.load(path, weights_only=False)
    assert all(canary.exists() for canary in canaries)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugated or negated"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "conjugated or negated"),
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: torch.empty(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.ones((1,) * 33), "33 dimensions"),
        (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: torch.ones(2, dtype=torch.complex32), "ComplexHalfStorage|complex32"),
        (lambda: torch.ones(2).to(torch.float8_e5m2), "torch.float8_e5m2"),
    ],
    ids=["conjugated", "negated", "sparse", "quantized", "meta", "many dimensions", "network", "complex32", "float8"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:ComplexHalf")
def test_tensors_that_are_not_plain_numbers_are_refused_by_name(make, named, tmp_path):
    path = written([torch.ones(1), make()], tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match=named):
        open_checkpoint(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_only_what_is_asked_for_is_read(is_zip, tmp_path, monkeypatch):
    value = {"large": torch.zeros(5, 2**20), "small": torch.arange(1000.0), "part": torch.ones(10, 10)[3:5]}
    path, lengths, fill = written(value, tmp_path / "x.pt", is_zip), [], Storage._fill
    monkeypatch.setattr(Storage, "_fill", lambda *args: lengths.append(len(args[1])) or fill(*args))

    def bytes_read():
        total, lengths[:] = sum(lengths), []
        return total

    tracemalloc.start()
    try:
        tree, _ = open_checkpoint(path)
        assert bytes_read() < 10_000 and path.stat().st_size > 20 * 2**20
        assert same(tree["small"], value["small"])
        assert bytes_read() == 4000
        assert same(tree["part"], value["part"])
        assert bytes_read() == (400 + 80 if is_zip else 80)  # an archive's checksum is of the whole storage
        assert tracemalloc.get_traced_memory()[1] < 2**20
        assert tree["large"].read().shape == (5, 2**20)
        assert bytes_read() == 20 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 21 * 2**20
    finally:
        tracemalloc.stop()


def test_a_part_of_a_large_storage_takes_little_memory(tmp_path):
    base = torch.arange(2**24, dtype=torch.float32).reshape(2**12, 2**12)
    path = written([base[7], base[:, 5]], tmp_path / "x.pt")
    tree, _ = open_checkpoint(path)
    tracemalloc.start()
    try:
        assert same(tree[0], base[7])
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20  # the checksum is taken piece by piece
    finally:
        tracemalloc.stop()
    assert same(tree[1], base[:, 5])
