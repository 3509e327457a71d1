import contextlib
import io
import pickle
import pickletools
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from mindone_vq.weights import unpickler
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.torch_pickle import UnreadableCheckpoint, open_checkpoint
from mindone_vq.weights.torch_tensors import SMALL_EXPANSION
from mindone_vq.weights.unpickler import Unknown
from tests.weights.hostile_pickles import CASES
from tests.weights.torch_files import Code, call, code, name, ordered, pickled, sample, storage, tensor, zipped

# What reading takes beside the bytes of the file: the archive's directory, the objects of the pickle, the buffer of
# the open file. It grows with the number of tensors, which is 21.
OVERHEAD = 128 * 1024


def write(folder, content):
    path = folder / "checkpoint.pt"
    path.write_bytes(content)
    return path


def tensors_in(tree):
    """All tensors in dicts, lists and tuples, in their order."""
    if isinstance(tree, LazyTensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [found for part in parts for found in tensors_in(part)]


def bits(array):
    return array.dtype, array.shape, array.tobytes()


def peak_memory(function, *arguments, **keywords):
    """(what ``function`` returns, the most that was allocated meanwhile, in bytes)."""
    tracemalloc.start()
    try:
        return function(*arguments, **keywords), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Title of a hostile file -> the most memory that its refusal may take.
MUCH = {
    "a bomb": OVERHEAD,
    "a data.pkl of 3 GB that is not there": OVERHEAD,
    "a storage of a terabyte": OVERHEAD,
    "very many empty lists": 20 * 2**20,
    "very many memos": 20 * 2**20,
    "many large dictionaries": 200 * 2**20,
}


@pytest.mark.parametrize("title", [title for title in CASES if title not in MUCH])
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(title, tmp_path):
    case, canary = CASES[title], tmp_path / "canary"
    path = write(tmp_path, case.build(str(canary)))
    with pytest.raises(UnreadableCheckpoint) as refusal:
        open_checkpoint(path)
    assert case.named in str(refusal.value)
    assert str(path) in str(refusal.value) and len(str(refusal.value)) < 1000 + len(str(path))
    if case.unknown:
        tree, ignored = open_checkpoint(path, ignore_unknown=True)
        assert any(case.named in kind for kind in ignored)
        assert all(bits(found.read()) == bits(np.zeros(4, np.float32)) for found in tensors_in(tree))
    else:
        with pytest.raises(UnreadableCheckpoint):
            open_checkpoint(path, ignore_unknown=True)
    assert not canary.exists()


@pytest.mark.parametrize("title", MUCH)
def test_a_file_that_asks_for_much_is_refused_early(title, tmp_path, monkeypatch):
    assert unpickler.MAX_OPCODES <= 10**6
    monkeypatch.setattr(unpickler, "MAX_OPCODES", 10**5)  # a tenth, for a tenth of the memory
    path = write(tmp_path, CASES[title].build(""))
    refusal, peak = peak_memory(pytest.raises, UnreadableCheckpoint, open_checkpoint, path)
    assert CASES[title].named in str(refusal.value)
    assert peak < MUCH[title]


def test_the_hostile_files_would_run_in_pythons_own_unpickler(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(CASES["a call instead of the magic number"].build(str(canary)))
    assert canary.exists()


@pytest.mark.parametrize(
    "beside",
    [
        Code(b"]r\xff\xff\xff\x7f0j\xff\xff\xff\x7f"),  # a memo of the highest number
        Code(b")" + b"\x85" * 200_000),  # a tuple in a tuple in a tuple ...
        Code(b"]q\x01h\x01a"),  # a list that contains itself
        Code(b"}q\x01X\x01\0\0\0ah\x01s"),  # a dict that contains itself
        Code(b")" + b"2\x86" * 60),  # a tuple of two times the same tuple of two times the same tuple ...
    ],
    ids=["memo", "deep", "list in itself", "dict in itself", "doubled"],
)
def test_what_is_odd_but_harmless_costs_nothing(beside, tmp_path):
    path = write(tmp_path, zipped([tensor(), beside], {"0": np.arange(4, dtype=np.float32).tobytes()}))
    (tree, ignored), peak = peak_memory(open_checkpoint, path)
    assert tree[0].read().tolist() == [0, 1, 2, 3] and len(tree) == 2 and not ignored
    assert peak < 40 * 2**20


def test_the_opcodes_of_the_oldest_protocols_are_understood(tmp_path):
    text = b"(lp0\n(dp1\nS'a'\nI5\nsa(V\xe9\nF2.5\nL7L\nI01\nNtag1\na(dS'b'\nI1\nsa(S'c'\nI2\nda(I1\nI2\nla."
    tree, _ = open_checkpoint(write(tmp_path, zipped(text)))
    assert tree == [{"a": 5}, ("é", 2.5, 7, True, None), {"a": 5}, {"b": 1}, {"c": 2}, [1, 2]] == pickle.loads(text)


def test_objects_of_unknown_classes_are_inert_wherever_they_are(tmp_path):
    thing = call("some.Class", 1)
    value = [
        {thing: 1, (1, "a"): 2},
        Code(thing + code({"x": 1}) + b"b"),
        Code(thing + b"(" + code("a") + code(1) + b"u"),
        Code(thing + code([1])[1:]),
        call(thing, 2),
        name("some.Other"),
        tensor(),
    ]
    tree, ignored = open_checkpoint(write(tmp_path, zipped(value)), ignore_unknown=True)
    assert ignored == {"some.Class", "some.Other"}
    assert [type(part) for part in tree] == [dict, *[Unknown] * 5, LazyTensor]
    assert [part.name for part in tree[1:6]] == ["some.Class"] * 4 + ["some.Other"]


@pytest.mark.parametrize("root", ["archive", "epoch=3", "12:30:00", "..weights..", "модель", "a b"])
def test_the_folder_in_the_archive_may_have_any_name(root, tmp_path):
    tree, _ = open_checkpoint(write(tmp_path, zipped(tensor(), root=root)))
    assert bits(tree.read()) == bits(np.zeros(4, np.float32))


def test_two_tensors_may_show_the_same_bytes_as_different_types(tmp_path):
    numbers = np.array([1, 2.5, -3, 0], np.float32)
    value = [tensor(store=storage("0", 4, kind)) for kind in ("FloatStorage", "IntStorage", "FloatStorage")]
    tree, _ = open_checkpoint(write(tmp_path, zipped(value, {"0": numbers.tobytes()})))
    assert [bits(part.read()) for part in tree] == [bits(numbers), bits(numbers.view(np.int32)), bits(numbers)]


def test_old_archives_that_do_not_tell_their_byte_order_are_read(tmp_path):
    content = zipped(tensor()).replace(b"byteorder", b"something")
    assert bits(open_checkpoint(write(tmp_path, content))[0].read()) == bits(np.zeros(4, np.float32))


@pytest.mark.parametrize("is_legacy", [False, True])
def test_both_formats_are_read_bit_for_bit(is_legacy, tmp_path):
    file = sample(is_legacy)
    assert outcome(write(tmp_path, file.content), file) == {"right"}
    state = open_checkpoint(tmp_path / "checkpoint.pt")[0]["state"]
    for key, array in file.arrays.items():
        copy = io.BytesIO()
        state[key].write_to(copy)
        assert copy.getvalue() == array.tobytes()
        places = file.places[file.storage_of[key]]
        assert "block" not in key or file.content[places.start : places.stop] == array.tobytes()
    assert len(file.arrays) == 21 and 90_000 < len(file.content) < 120_000


def outcome(path, file):
    """ "refused", "other" if something else than the tensors differs, "right", or the names of the tensors that differ.

    What is no UnreadableCheckpoint is not caught.
    """
    try:
        tree, _ = open_checkpoint(path)
        if not isinstance(tree, dict) or list(tree) != ["state", "rest"] or not isinstance(tree["state"], dict):
            return {"other"}
        found = {key: bits(lazy.read_stored()) for key, lazy in tree["state"].items() if isinstance(lazy, LazyTensor)}
    except UnreadableCheckpoint:
        return {"refused"}
    expected = {key: bits(array) for key, array in file.arrays.items()}
    if tree["rest"] != [3, 1e-4, None, True, (1, 2)] or list(found) != list(expected):
        return {"other"}
    if any(found[key][:2] != expected[key][:2] for key in expected):
        return {"other"}
    return {key for key in expected if found[key] != expected[key]} or {"right"}


def read_and_forget(path):
    with contextlib.suppress(UnreadableCheckpoint):
        for lazy in tensors_in(open_checkpoint(path)[0]):
            lazy.read_stored()


def damaged(file, rng, times):
    """(the changed place, the content) of files of which one byte is changed, or the end is missing.

    Every second change is outside the bytes of the storages, which are most of the file.
    """
    storage_bytes = {place for places in file.places.values() for place in places}
    others = [place for place in range(len(file.content)) if place not in storage_bytes]
    for i in range(times):
        place = rng.choice(others) if i % 2 else rng.randrange(len(file.content))
        if i % 8 == 7:
            yield place, file.content[:place]
        else:
            value = file.content[place] ^ (1 << rng.randrange(8) if i % 3 else rng.randrange(1, 256))
            yield place, file.content[:place] + bytes([value]) + file.content[place + 1 :]


def test_a_damaged_archive_gives_the_right_tensors_or_none(tmp_path):
    file, outcomes = sample(False), []
    for i, (place, content) in enumerate(damaged(file, random.Random(1), 500)):
        path = write(tmp_path, content)
        if i % 20 == 1:
            assert peak_memory(read_and_forget, path)[1] < 2 * len(content) + OVERHEAD, place
        result = outcome(path, file)
        assert result in ({"right"}, {"refused"}), place
        outcomes += result
    assert outcomes.count("refused") > 375 and outcomes.count("right") > 12


def test_a_damaged_file_of_the_old_format_is_refused_where_that_can_be_known(tmp_path):
    """It has no checksums: a changed number of a tensor, or of its description, can be as valid as the right one."""
    file, outcomes = sample(True), []
    for i, (place, content) in enumerate(damaged(file, random.Random(2), 600)):
        path = write(tmp_path, content)
        if i % 20 == 1:
            # A size that was changed may show numbers again and again.
            assert peak_memory(read_and_forget, path)[1] < 2 * len(content) + OVERHEAD + SMALL_EXPANSION, place
        result = outcome(path, file)
        changed = [key for key, places in file.places.items() if place in places]
        if len(content) < len(file.content):
            assert result == {"refused"}
        elif changed:
            assert result and result <= {key for key in file.arrays if file.storage_of[key] == changed[0]}, place
        elif place not in file.pickle:
            assert result in ({"right"}, {"refused"}), place
        outcomes += result
    assert outcomes.count("refused") > 150 and outcomes.count("right") > 5


@pytest.mark.parametrize("ignore_unknown", [False, True])
def test_opcodes_in_any_order_are_read_or_refused(ignore_unknown, tmp_path):
    rng, canary, read = random.Random(3), tmp_path / "canary", 0
    builds = [case.build(str(canary)) for title, case in CASES.items() if case.unknown and "legacy" not in title]
    pickles = [pickled([tensor(), ordered({"a": tensor((2, 2), (2, 1))})])]
    pickles += [zipfile.ZipFile(io.BytesIO(content)).read("archive/data.pkl") for content in builds]
    everything = [opcode for content in pickles for opcode in opcodes(content)]
    for _ in range(500):
        parts = opcodes(rng.choice([pickles[0], rng.choice(pickles)]))
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(parts))
            parts[place : place + rng.randrange(2)] = rng.sample(everything, rng.randrange(3))
            parts = parts or [b"N"]
        path = write(tmp_path, zipped(b"".join(parts)))
        with contextlib.suppress(UnreadableCheckpoint):
            for lazy in tensors_in(open_checkpoint(path, ignore_unknown)[0]):
                assert lazy.read().shape == lazy.shape
            read += 1
    assert read > 13
    assert not canary.exists()


def opcodes(content):
    ends = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    return [content[start:end] for start, end in zip(ends, ends[1:])]


@pytest.mark.parametrize("key", ["4", "20"])
def test_damage_in_one_storage_is_told_by_each_tensor_that_shows_part_of_it(key, tmp_path):
    file = sample(False)
    content = bytearray(file.content)
    content[file.places[key][-1]] ^= 1
    state = open_checkpoint(write(tmp_path, bytes(content)))[0]["state"]
    for title in sorted(state):  # "every second", which does not show the last byte, before "transposed"
        if file.storage_of[title] == key:
            with pytest.raises(UnreadableCheckpoint, match=f"archive/data/{key} do not have their checksum"):
                state[title].read()
        else:
            assert bits(state[title].read_stored()) == bits(file.arrays[title])


def test_a_file_that_is_cut_after_it_was_opened_is_told(tmp_path):
    file = sample(True)
    path = write(tmp_path, file.content)
    state = open_checkpoint(path)[0]["state"]
    with open(path, "r+b") as opened:
        opened.truncate(file.places["20"][0] + 5)
    with pytest.raises(UnreadableCheckpoint, match="ends inside storage 20"):
        state["transposed"].read()


def test_ten_thousand_tensors_are_within_the_limits(tmp_path):
    value = {f"model.transformer.blocks.{i}.attention.weight": tensor() for i in range(10_000)}
    tree, _ = open_checkpoint(write(tmp_path, zipped(value)))
    assert len(tree) == 10_000
