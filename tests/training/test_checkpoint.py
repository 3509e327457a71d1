import errno
import hashlib
import itertools
import json
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from safetensors.numpy import save as save_tensors
from safetensors.numpy import save_file

from mindone_vq.training.checkpoint import find_checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint

BFLOAT16 = Tensor(np.zeros(1, np.float32), ms.bfloat16).asnumpy().dtype
# What a conversion would change: NaNs with a payload (quiet and signalling), -0, the smallest numbers.
AWKWARD = {
    "float32": np.array([0x7FC00123, 0x7F800001, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32),
    "float16": np.array([0x7E12, 0x7C01, 0x8000, 1, 0xFC00], np.uint16).view(np.float16),
    "bfloat16": np.array([0x7FC3, 0x7F81, 0x8000, 1, 0xFF80], np.uint16).view(BFLOAT16),
    "int32": np.array([-(2**31), 2**31 - 1], np.int32),
    "int64": np.array([-(2**63), 2**63 - 1, 2**53 + 1], np.int64),
    "bool": np.array([[True], [False]]),
}
ODD_NAMES = ("__metadata__", "", 'é/\n\x00"\\ 中 🙂', "array:x")


def parameter(name, array):
    return Parameter(Tensor(array), name=name)


def everything():
    """A parameter of each type, also alone and empty."""
    made = [parameter(name, array) for name, array in AWKWARD.items()]
    made += [parameter(f"{name}.alone", array.reshape(-1)[0:1].reshape(())) for name, array in AWKWARD.items()]
    made += [parameter("empty", np.zeros((0, 3), np.float32)), parameter("matrix", np.arange(6.0).reshape(2, 3))]
    return made


def zeroed(parameters):
    return [parameter(p.name, np.zeros_like(p.asnumpy())) for p in parameters]


def bits(array):
    return array.shape, array.dtype, array.tobytes()


def save(folder, step, value=1.0, keep=3, size=3):
    return save_checkpoint(folder, step, [parameter("w", np.full(size, value, np.float32))], {}, {"step": step}, keep)


def restored(path, size=3):
    w = parameter("w", np.zeros(size, np.float32))
    _, state = load_checkpoint(path, [w])
    return w.asnumpy()[0], state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def name(step):
    return f"step-{step:08d}.safetensors"


def test_every_bit_comes_back(tmp_path):
    saved = everything()
    path = save_checkpoint(tmp_path / "checkpoints", 1200, iter(saved), {}, {}, keep=1)
    assert path == tmp_path / "checkpoints" / "step-00001200.safetensors"
    targets = zeroed(saved)
    assert load_checkpoint(path, reversed(targets)) == ({}, {})
    for ours, theirs in zip(targets, saved):
        assert (ours.name, ours.dtype) == (theirs.name, theirs.dtype)
        assert bits(ours.asnumpy()) == bits(theirs.asnumpy()), ours.name
    for key, array in AWKWARD.items():
        assert bits(next(p for p in targets if p.name == key).asnumpy()) == bits(array)


def test_arrays_and_state_come_back(tmp_path):
    generators = {"codes": np.random.default_rng(3), "noise": np.random.default_rng([4, 5])}
    generators["noise"].integers(10, dtype=np.int32)  # leaves half of a number behind
    state = {
        "step": 7,
        "generators": {key: generator.bit_generator.state for key, generator in generators.items()},
        "plateau": {"best": float("inf"), "rate": 0.1 + 0.2, "waited": None, "of": ["ß", True]},
    }
    arrays = {"loss": np.linspace(0, 1, 7)[::2], "big": np.arange(3, dtype=">i8"), "n": np.array(5), "no": np.zeros(0)}
    arrays["turned"] = np.arange(6).reshape(2, 3).T
    path = save_checkpoint(tmp_path, 7, [parameter("loss", np.ones(2, np.float32))], arrays, state, keep=1)
    got, same = load_checkpoint(path, [parameter("loss", np.zeros(2, np.float32))])
    assert same == state
    assert got.keys() == arrays.keys()
    for key, array in arrays.items():
        assert np.array_equal(got[key], array) and got[key].shape == array.shape
        assert got[key].dtype == array.dtype.newbyteorder("=")
    got["loss"][0] = 3  # can be written
    for key, generator in generators.items():
        again = np.random.default_rng()
        again.bit_generator.state = same["generators"][key]
        assert np.array_equal(
            again.integers(2**31, size=9, dtype=np.int32), generator.integers(2**31, size=9, dtype=np.int32)
        )
        assert np.array_equal(again.normal(size=9), generator.normal(size=9))


def test_names_may_be_anything(tmp_path):
    made = []
    for i, odd in enumerate(ODD_NAMES):
        made.append(parameter("x", np.full(2, i + 1.0)))
        made[-1].name = odd
    path = save_checkpoint(tmp_path, 0, made, {odd: np.array(-i) for i, odd in enumerate(ODD_NAMES)}, {}, keep=1)
    before = [p.asnumpy().copy() for p in made]
    for p in made:
        p.set_data(Tensor(np.zeros(2)))
    arrays, _ = load_checkpoint(path, made)
    assert [p.asnumpy().tolist() for p in made] == [array.tolist() for array in before]
    assert {key: int(value) for key, value in arrays.items()} == {odd: -i for i, odd in enumerate(ODD_NAMES)}


def test_a_compiled_step_continues_from_what_was_loaded(tmp_path):
    w = parameter("w", np.ones(3, np.float32))

    class Step(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.w = w

        def construct(self, x):
            value = self.w * x + 1
            ms.ops.assign(self.w, value)
            return value

    step, x = ms.jit(Step()), Tensor(np.array([0.5, 2, 3], np.float32))
    step(x)
    path = save_checkpoint(tmp_path, 1, [w], {}, {}, keep=1)
    expected = step(x).asnumpy().copy()
    for _ in range(2):
        step(x)
        load_checkpoint(path, [w])
        assert np.array_equal(step(x).asnumpy(), expected)
        assert np.array_equal(w.asnumpy(), expected)


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path):
    others = ["step-1.safetensors", "step-00000001.safetensors.bak", "notes.txt", ".step-00000001.safetensors.part"]
    for other in others:
        (tmp_path / other).write_text("mine")
    stale = tmp_path / ".step-00000003.safetensors.ab_9xyz1"
    stale.write_bytes(b"half")
    for step in (1, 2, 9, 10, 99999999, 100000000):
        save(tmp_path, step, keep=2)
        assert not stale.exists()
    assert names(tmp_path) == sorted([*others, "step-99999999.safetensors", "step-100000000.safetensors"])
    assert latest_checkpoint(tmp_path).name == "step-100000000.safetensors"
    save(tmp_path, 100000001, keep=1)
    assert names(tmp_path) == sorted([*others, "step-100000001.safetensors"])


def test_going_back_to_an_earlier_step_keeps_what_is_written(tmp_path, caplog):
    for step in (10, 20, 30):
        save(tmp_path, step)
    save(tmp_path, 15, keep=1)
    assert names(tmp_path) == [name(15), name(20), name(30)]
    assert f"later steps than 15: {name(20)}, {name(30)}" in caplog.text


def test_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 5, 1.0)
    assert restored(save(tmp_path, 5, 2.0)) == (2.0, {"step": 5})
    assert names(tmp_path) == [name(5)]


def test_no_checkpoints(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert latest_checkpoint(folder) is None
        assert find_checkpoint(folder) is None
    with pytest.raises(FileNotFoundError, match=name(1)):
        load_checkpoint(tmp_path / name(1), [])


class FullFile:
    """Takes so many bytes, then the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, attribute):
        return getattr(self.file, attribute)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(bytes(data)[: self.room])
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("moment", ["header", "tensor", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(moment, tmp_path, monkeypatch):
    save(tmp_path, 1)
    fdopen = os.fdopen
    with monkeypatch.context() as patch:
        if moment in ("fsync", "replace"):
            patch.setattr(os, moment, full)
        else:
            room = {"header": 10, "tensor": 1000}[moment]
            patch.setattr(os, "fdopen", lambda *args: FullFile(fdopen(*args), room))
        with pytest.raises(OSError, match=f"No space left on device.*intact.*{name(2)}") as caught:
            save(tmp_path, 2, keep=1, size=10_000)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == [name(1)]
    assert restored(find_checkpoint(tmp_path)) == (1.0, {"step": 1})


@pytest.mark.parametrize("kind, shown", [(RuntimeError, RuntimeError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_failing_device_leaves_the_old_checkpoint(kind, shown, tmp_path, monkeypatch):
    save(tmp_path, 1)
    w = parameter("w", np.ones(3, np.float32))

    def fail():
        raise kind("the device is lost")

    monkeypatch.setattr(w, "asnumpy", fail)
    with pytest.raises(shown, match="the device is lost") as caught:
        save_checkpoint(tmp_path, 2, [parameter("v", np.ones(3)), w], {}, {}, keep=1)
    assert kind is KeyboardInterrupt or name(2) in str(caught.value)
    assert names(tmp_path) == [name(1)]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"not written.*{name(1)}"):
        save(tmp_path / "file", 1)


def test_what_cannot_be_removed_does_not_end_the_training(tmp_path, caplog):
    (tmp_path / name(1)).mkdir()
    save(tmp_path, 2, keep=1)
    assert f"{name(1)} was not removed" in caplog.text
    assert restored(tmp_path / name(2)) == (1.0, {"step": 2})


def test_every_damaged_byte_is_noticed(tmp_path, caplog):
    old, new = save(tmp_path, 1), save(tmp_path, 2, 2.0)
    content = new.read_bytes()
    assert len(content) < 1000
    for position, mask in itertools.product(range(len(content)), (0x01, 0x20)):
        damaged = bytearray(content)
        damaged[position] ^= mask
        new.write_bytes(damaged)
        assert find_checkpoint(tmp_path) == old, position
    for size in range(len(content)):
        new.write_bytes(content[:size])
        assert find_checkpoint(tmp_path) == old, size
    new.write_bytes(content + b"\0")
    caplog.clear()
    assert find_checkpoint(tmp_path) == old
    assert latest_checkpoint(tmp_path) == new
    assert f"{new} is damaged" in caplog.text and old.name not in caplog.text
    w = parameter("w", np.full(3, 7, np.float32))
    with pytest.raises(ValueError, match=f"{name(2)} is damaged"):
        load_checkpoint(new, [w])
    assert w.asnumpy().tolist() == [7, 7, 7]
    old.write_bytes(b"")
    with pytest.raises(ValueError, match=f"Every checkpoint.*{name(2)}, {name(1)}"):
        find_checkpoint(tmp_path)
    new.write_bytes(content)
    assert restored(find_checkpoint(tmp_path)) == (2.0, {"step": 2})


def test_a_checkpoint_of_the_version_before_is_read_and_checked(tmp_path):
    """Its checksum is among the metadata: that of the file with zeros in its place."""
    w, zeros = np.arange(3, dtype=np.float32), b"0" * 64
    path = tmp_path / name(7)
    metadata = {"sha256": zeros.decode(), "state": json.dumps({"step": 7})}
    content = save_tensors({"parameter:w": w, "array:n": np.array([5])}, metadata)
    content = content.replace(zeros, hashlib.sha256(content).hexdigest().encode())
    path.write_bytes(content)
    target = parameter("w", np.zeros(3, np.float32))
    arrays, state = load_checkpoint(find_checkpoint(tmp_path), [target])
    assert np.array_equal(target.asnumpy(), w) and arrays["n"].tolist() == [5] and state == {"step": 7}
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="Every checkpoint"):
            find_checkpoint(tmp_path)


def test_other_safetensors_are_no_checkpoint(tmp_path):
    save_file({"w": np.ones(100, np.float32)}, tmp_path / name(1))
    with pytest.raises(ValueError, match="it has no checksum"):
        load_checkpoint(tmp_path / name(1), [parameter("w", np.ones(100, np.float32))])


def test_a_large_file_is_checked_to_its_end(tmp_path):
    path = save(tmp_path, 1, size=700_000)
    assert find_checkpoint(tmp_path) == path
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(ValueError, match="damaged"):
        find_checkpoint(tmp_path)


def test_what_the_disk_does_not_give_back_is_damaged(tmp_path, monkeypatch, caplog):
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    number = errno.EIO

    def failing(path, *args):
        if path == new:
            raise OSError(number, os.strerror(number))
        return open(path, *args)

    monkeypatch.setattr("mindone_vq.training.checkpoint.open", failing, raising=False)
    assert find_checkpoint(tmp_path) == old
    assert "Input/output error" in caplog.text
    number = errno.EACCES
    with pytest.raises(PermissionError):
        find_checkpoint(tmp_path)


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path):
    kept = {"good": np.ones(2, np.float32), "shape": np.ones((2, 3), np.float32), "type": np.ones(4, np.float32)}
    alone = {"alone": np.array(1, np.int32), "left.over": np.ones(5, np.int32)}
    path = save_checkpoint(tmp_path, 1, [parameter(*item) for item in {**kept, **alone}.items()], {}, {}, keep=1)
    targets = [
        parameter("good", np.full(2, 7, np.float32)),
        parameter("shape", np.full((3, 2), 7, np.float32)),
        Parameter(Tensor(np.full(4, 7, np.float32), ms.bfloat16), name="type"),
        parameter("alone", np.full(1, 7, np.int32)),
        parameter("absent", np.full(6, 7, np.float16)),
    ]
    before = [bits(p.asnumpy()) for p in targets]
    with pytest.raises(ValueError, match=name(1)) as caught:
        load_checkpoint(path, targets)
    for problem in (
        "missing: absent, float16 (6,)",
        "left over: left.over, int32 (5,)",
        "shape is float32 (2, 3) in the file, float32 (3, 2) here",
        "type is float32 (4,) in the file, bfloat16 (4,) here",
        "alone is int32 () in the file, int32 (1,) here",
    ):
        assert problem in str(caught.value)
    assert "good" not in str(caught.value)
    assert [bits(p.asnumpy()) for p in targets] == before


def test_a_name_given_twice_is_refused(tmp_path):
    twice = [parameter(key, np.ones(1, np.float32)) for key in ("a", "b", "a", "c", "c")]
    with pytest.raises(ValueError, match="called a, c:"):
        save_checkpoint(tmp_path, 1, twice, {}, {}, keep=1)
    assert names(tmp_path) == []
    path = save_checkpoint(tmp_path, 1, twice[:2], {}, {}, keep=1)
    with pytest.raises(ValueError, match="called a:"):
        load_checkpoint(path, twice[:3])


@pytest.mark.parametrize(
    "change, kind, message",
    [
        (dict(state={"a": np.int64(1)}), TypeError, "must be JSON.*int64"),
        (dict(state={"a": np.ones(2)}), TypeError, "must be JSON.*ndarray"),
        (dict(arrays={"a": np.array(["text"])}), ValueError, "array a is of type <U4"),
        (dict(arrays={"a": np.zeros(2, BFLOAT16)}), ValueError, "array a is of type bfloat16"),
        (dict(arrays={"a": np.zeros(2, np.longdouble)}), ValueError, "array:a has elements of type float128"),
        (dict(arrays={"\ud800": np.zeros(2)}), ValueError, "surrogates"),
        (dict(state={"a": "x" * 100_000_000}), ValueError, "safetensors allows 100000000"),
        (dict(parameters=[parameter("z", np.zeros(2, np.complex64))]), ValueError, "z has elements of type complex64"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_stored_is_refused(change, kind, message, tmp_path):
    save(tmp_path, 1)
    arguments = dict(step=2, parameters=[], arrays={}, state={}, keep=1)
    with pytest.raises(kind, match=message):
        save_checkpoint(tmp_path, **{**arguments, **change})
    assert names(tmp_path) == [name(1)]
