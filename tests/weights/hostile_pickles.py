"""Files that ``torch.save`` would never write: ``CASES``, by title.

Each is built for the path of a canary: a file that exists afterwards if anything of the hostile file was executed.
"""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from typing import Callable

from tests.weights.torch_files import (
    Code,
    Entry,
    archive,
    call,
    code,
    entries_of,
    legacy,
    name,
    ordered,
    pickled,
    storage,
    tensor,
    zipped,
)


@dataclass
class Case:
    """A hostile file.

    Attributes:
        build: path of the canary -> the file.
        named: part of the message of its refusal.
        unknown: it names what is not known, and is read without it where the unknown is to be passed over.
    """

    build: Callable[[str], bytes]
    named: str
    unknown: bool = False


def _calls() -> dict[str, Case]:
    """Pickles that call what is not theirs to call."""

    def touch(canary: str) -> str:
        return f"touch '{canary}'"

    def script(canary: str) -> str:
        return f"open({canary!r}, 'w').close()"

    def chain(canary: str) -> Code:
        return call(call("builtins.getattr", call("builtins.__import__", "os"), "system"), touch(canary))

    class Reduced:
        def __init__(self, canary: str) -> None:
            self.canary = canary

        def __reduce__(self):
            return exec, (script(self.canary),)

    def stacked(module: str, attribute: str, canary: str) -> Code:
        return Code(code(module) + code(attribute) + b"\x93" + code((touch(canary),)) + b"R")

    def by_type(function: Code, kind: str, *arguments) -> Code:
        return call("torch._tensor._rebuild_from_type_v2", function, name(kind), arguments, {})

    called = {
        "os.system": touch,
        "posix.system": touch,
        "subprocess.Popen": lambda canary: ["touch", canary],
        "builtins.eval": script,
        "__builtin__.eval": script,
        "builtins.open": lambda canary: canary,
        "operator.attrgetter": lambda _: "system",
        "functools.partial": lambda _: name("os.system"),
        "pickle.loads": lambda canary: code(pickled(call("os.system", touch(canary))).decode("latin1")),
        "runpy.run_path": lambda canary: canary,
        "numpy.load": lambda canary: canary,
        "numpy.core.multiarray._reconstruct": lambda _: name("numpy.ndarray"),
        "torch.load": lambda canary: canary,
        "torch.storage._load_from_bytes": lambda canary: pickled(call("os.system", touch(canary))).decode("latin1"),
        "torch.nn.modules.linear.Linear": lambda _: 4,
        "torch._utils._rebuild_qtensor": lambda _: 0,
        "torch._utils._import_dotted_name": lambda _: "os.system",
        "collections.OrderedDict.fromkeys": lambda _: (),
        "torch._utils._rebuild_tensor_v2.__globals__": lambda _: (),
    }
    crafted = {
        "a chain of getattr": (chain, "builtins.getattr"),
        "the result of a call called": (lambda c: call(call("os.fdopen", 1), touch(c)), "os.fdopen"),
        "INST": (lambda c: Code(b"(" + code(touch(c)) + b"ios\nsystem\n"), "os.system"),
        "OBJ": (lambda c: Code(b"(" + name("posix.system") + code(touch(c)) + b"o"), "posix.system"),
        "NEWOBJ": (lambda c: Code(name("subprocess.Popen") + code((["touch", c],)) + b"\x81"), "subprocess.Popen"),
        "NEWOBJ_EX": (
            lambda c: Code(name("subprocess.Popen") + code(()) + code({"args": ["touch", c]}) + b"\x92"),
            "subprocess.Popen",
        ),
        "STACK_GLOBAL": (lambda c: stacked("os", "system", c), "os.system"),
        "STACK_GLOBAL of an attribute": (lambda c: stacked("torch", "os.system", c), "torch.os.system"),
        "BUILD": (lambda c: Code(call("tests.weights.hostile_pickles.Case") + code({"canary": c}) + b"b"), ".Case"),
        "a class never called": (lambda c: name("os.system"), "os.system"),
        "a global with a name of a megabyte": (lambda c: name("o." + "s" * 2**20), "o.sss"),
        "a key that is called": (lambda c: {call("builtins.exec", script(c)): tensor()}, "builtins.exec"),
        "a tensor's type": (
            lambda c: by_type(name("torch._utils._rebuild_tensor_v2"), "os.X", storage(), 0, (4,), (1,)),
            "os.X",
        ),
    }
    crafted |= {text: (lambda c, t=text, a=argument: call(t, a(c)), text) for text, argument in called.items()}
    cases = {
        title: Case(lambda canary, m=make: zipped([tensor(), m(canary)]), named, True)
        for title, (make, named) in crafted.items()
    }
    for protocol in (0, 2, 4):
        cases[f"__reduce__ by protocol {protocol}"] = Case(
            lambda canary, p=protocol: zipped(pickle.dumps(Reduced(canary), p)),
            "builtin__.exec" if protocol < 3 else "builtins.exec",
            True,
        )

    def attack(canary: str) -> Code:
        return call("os.system", touch(canary))

    in_an_id = lambda c: zipped(Code(code(("storage", attack(c), "0", "cpu", 4)) + b"Q"))  # noqa: E731
    by_system = lambda c: zipped(by_type(name("os.system"), "torch.Tensor", touch(c)))  # noqa: E731
    return cases | {
        "a call in the legacy format": Case(lambda c: legacy(attack(c), {}), "os.system", True),
        "a call instead of the magic number": Case(lambda c: pickled(attack(c)), "os."),
        "a call instead of the list of storages": Case(lambda c: legacy([], {}, keys=attack(c)), "os.system"),
        "a call in a persistent id": Case(in_an_id, "os.system"),
        "a call that makes a tensor": Case(by_system, "os.system"),
    }


def _doubled(times: int, final: bytes = b"") -> Code:
    """A tuple of twice the same tuple of twice the same ...: small in memory, without end as text or to hash."""
    return Code(b")" + b"2\x86" * times + final)


def _again_and_again(function: str, argument, times: int) -> Code:
    """A list of results of a function that is given one long argument, which the pickle contains once."""
    memorized = code(argument) + b"r\x01\0\0\0" + b"0" + name(function) + b"q\x02" + b"0"
    return Code(memorized + b"](" + b"h\x02h\x01\x85R" * times + b"e")


def _deep(times: int) -> Code:
    return Code(b")" + b"\x85" * times)


def _opcodes() -> dict[str, dict[str, object]]:
    """Part of a message -> title -> a pickle that is wrong in itself."""
    one = call("collections.OrderedDict")
    return {
        "EXT1": {"EXT1": Code(b"\x82\x01")},
        "EXT4": {"EXT4": Code(b"\x84\x01\x00\x00\x00")},
        "NEXT_BUFFER": {"NEXT_BUFFER": Code(b"\x97")},
        "opcode 255": {"an opcode that is none": Code(b"\xff")},
        "STACK_GLOBAL requires str": {
            "a global named by a number": Code(code(1) + code("system") + b"\x93"),
            "a global of a global": Code(name("torch.Size") + code("system") + b"\x93"),
        },
        "object is not callable": {
            "the result of a known call called": call(one, "touch"),
            "a string called": call(code("eval"), "1"),
            "a tensor called": call(tensor(), "1"),
            "a storage type called": call("torch.FloatStorage", 10**9),
            "a function without end": call(_doubled(60), 1),
        },
        "TypeError": {
            "a call without arguments": Code(name("torch.Size") + b"NR"),
            "a call with a string for arguments": Code(name("torch._utils._rebuild_tensor_v2") + code("x") + b"R"),
            "a tensor of nothing": call("torch._utils._rebuild_tensor_v2"),
        },
        "with keywords": {"keywords": Code(name("collections.OrderedDict") + b")" + code({"a": 1}) + b"\x92")},
        "sets the attributes of a": {
            "BUILD of a dict": Code(code({}) + code({"__class__": 1}) + b"b"),
            "BUILD of a tensor": Code(tensor() + code({"read": 1}) + b"b"),
            "BUILD of a global": Code(name("torch.Size") + code({"x": 1}) + b"b"),
            "BUILD of a storage": Code(storage() + code({"length": 2**40}) + b"b"),
        },
        "item assignment": {"items for a tensor": Code(tensor() + code("a") + code(1) + b"s")},
        "no attribute 'append'": {"APPENDS to a dict": Code(code({}) + b"(" + code(1) + b"e")},
        "unhashable": {"a key that has no hash": Code(b"}]Ns")},
        "IndexError": {
            "a key without a value": Code(b"}(" + code("a") + b"u"),
            "only STOP": b".",
            "REDUCE on nothing": b"R.",
            "APPEND on nothing": b"Na.",
            "a pop too many": b"0.",
            "a mark as the result": b"(.",
            "a mark in the memo": b"(q\x010h\x01.",
            "a tuple without a mark": b"Nt.",
            "OBJ of nothing": b"(o.",
        },
        "damaged": {
            "TUPLE3 of two": b"NN\x87.",
            "a mark twice": b"(2tt.",
            "LONG4 of less than nothing": b"\x8b\xff\xff\xff\xff\x01.",
            "a number of a hundred thousand digits": b"L" + b"9" * 100_000 + b"L\n.",
            "text that is none": b"X\x02\0\0\0\xff\xfe.",
        },
        "more than one object": {"two objects": b"NN."},
        "Memo value not found": {
            "a memo that is empty": b"h\x05.",
            "a memo of two thousand million": b"Nr\xff\xff\xff\x7fj\xfe\xff\xff\x7f.",
        },
        "EOFError": {
            "no STOP": pickled(1)[:-1],
            "nothing at all": b"",
            "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f\x01.",
            "BINBYTES of 4 GB": b"B\xff\xff\xff\xffx.",
            "BINBYTES8 of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
            "BINUNICODE8 of 2**62": b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
            "BYTEARRAY8 of 2**62": b"\x96" + struct.pack("<Q", 2**62) + b"x.",
            "a frame of 2**62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        },
        "opcodes": {
            "very many empty lists": lambda: b"]" * 200_000 + b".",
            "very many memos": lambda: b"]" + b"\x94" * 200_000 + b".",
        },
        "longer than 16777216": {
            "twenty megabytes of text": lambda: b"X" + struct.pack("<I", 20 * 2**20) + b"x" * 20 * 2**20 + b".",
        },
        "tuple of tuples as a key": {
            "a key without end": Code(b"}" + _doubled(60) + b"Ns"),
            "a key without ground": Code(b"}" + _deep(200_000) + b"Ns"),
            "keys without end": Code(b"}(" + _doubled(60) + b"Nu"),
            "keys of DICT without end": Code(b"(" + _doubled(60) + b"Nd"),
            "keys of an OrderedDict without end": call("collections.OrderedDict", [(_doubled(60), 1)]),
        },
        "another codec": {"a codec": call("_codecs.encode", "x", "zlib")},
        "something else than text": {"bytes that are encoded": call("_codecs.encode", 5, "latin1")},
        "torch.Size of a str": {"sizes of a text": call("torch.Size", "1" * 1000)},
        "more than it contains": {
            "many long sizes": _again_and_again("torch.Size", (None,) * 50_000, 10_000),
            "many long texts": _again_and_again("_codecs.encode", "x" * 500_000, 10_000),
            "many large dictionaries": _again_and_again(
                "collections.OrderedDict", [(i, i) for i in range(20_000)], 10_000
            ),
        },
    }


def _tensors() -> dict[str, dict[str, object]]:
    """Part of a message -> title -> a pickle with a tensor or a storage that is not in the file."""
    lists = Code(code([4]) + b"q\x07"), Code(code([1]) + b"q\x08")
    grown = [Code(memo + code(10**7) + b"a") for memo in (b"h\x07", b"h\x08")]

    def identified(*persistent_id) -> Code:
        return Code(code(persistent_id) + b"Q")

    def typed(dtype: object) -> Code:
        return call("torch._utils._rebuild_tensor_v3", storage(), 0, (4,), (1,), False, None, dtype)

    return {
        "a persistent id that is no storage": {
            "PERSID": Code(b"Pstorage\n"),
            "a persistent id that is a number": Code(code(7) + b"Q"),
            "a persistent id too short": identified("storage", name("torch.FloatStorage"), "0"),
            "a persistent id without end": _doubled(60, b"Q"),
            "a persistent id without ground": Code(_deep(200_000) + b"Q"),
        },
        "describes a storage as torch.save does not": {
            "a persistent id of another kind": identified("module", name("torch.FloatStorage"), "0", "cpu", 4),
            "a storage of text for a type": identified("storage", "float32", "0", "cpu", 4),
            "a storage of a type without end": identified("storage", _doubled(60), "0", "cpu", 4),
            "a storage of tensors": identified("storage", name("torch.Tensor"), "0", "cpu", 4),
            "a storage with a number for a key": storage(0),
            "a storage with a long key": storage("0" * 10**6),
            "a storage of -1 elements": storage(number=-1),
            "a storage of 2**60 elements": storage(number=2**60),
            "a storage of 4.0 elements": storage(number=4.0),
            "a storage of True elements": storage(number=True),
        },
        "QInt8Storage": {"a storage of a type that is not read": storage(kind="QInt8Storage")},
        "'archive/data/1' is not in its archive": {"a storage that is missing": storage("1")},
        "'archive/data/../data.pkl' is not in": {"a storage elsewhere": storage("../data.pkl")},
        "has only 16 in its archive": {
            "a storage of 2**47 elements": storage(number=2**47),
            "a storage longer than its entry": storage(number=5),
            "a storage of wider elements": storage(kind="DoubleStorage"),
        },
        "describes a tensor as torch.save does not": {
            "a negative size": tensor((-4,)),
            "a negative stride": tensor((4,), (-1,), 3),
            "a negative offset": tensor(offset=-1),
            "a size of 2**70": tensor((2**70,)),
            "a size without end": tensor((_doubled(60),)),
            "fewer strides than sizes": tensor((2, 2), (1,)),
            "a size of True": tensor((True,)),
            "a size of text": tensor(("4",)),
            "a text for sizes": tensor("4", "1"),
            "a number for sizes": tensor(4, 1),
            "sizes that grow afterwards": [tensor(*lists), *grown],
            "an offset of text": tensor(offset="0"),
            "a tensor without a storage": tensor(store=code({})),
            "a tensor of a type that is none": typed(name("torch.Tensor")),
            "a tensor of a type that is text": typed("float32"),
        },
        "more bytes than the whole file": {
            "sizes whose product overflows": tensor((2**33, 2**33), (0, 0)),
            "an expansion to 4 GB": tensor((2**30,), (0,)),
            "many small expansions": tensor((2,) * 30, (0,) * 30),
        },
        "beyond the end of archive/data/0": {
            "an offset beyond the end": tensor((1,), (1,), 4),
            "an offset far beyond the end": tensor((1,), (1,), 2**47),
            "a size beyond the end": tensor((5,)),
            "strides beyond the end together": tensor((2, 2), (2, 2)),
            "a tensor of a wider type than its storage": typed(name("torch.float64")),
        },
        "damaged": {"sizes of nothing that overflow": tensor((0, 2**40, 2**40), (0, 0, 0))},
        "40 dimensions": {"forty dimensions": tensor((1,) * 40, (1,) * 40)},
        "conjugated": {"a tensor to be conjugated": tensor((4,), (1,), 0, None, {"conj": True})},
        "no tensor": {"a parameter of text": call("torch._utils._rebuild_parameter", "x", True, ordered())},
        "a tensor by a function that makes none": {
            "a builder without end": call("torch._tensor._rebuild_from_type_v2", _doubled(60), None, (), ()),
            "a builder of sizes": call("torch._tensor._rebuild_from_type_v2", name("torch.Size"), None, ((4,),), ()),
        },
    }


def _archives() -> dict[str, dict[str, object]]:
    """Part of a message -> title -> an archive that is wrong in itself."""
    honest = entries_of([tensor()])
    whole = archive(honest)
    directory = whole.index(b"PK\1\2")

    def with_entry(*args, **kwargs) -> bytes:
        return archive([*honest, Entry(*args, **kwargs)])

    def deflated(title: str, content: bytes) -> bytes:
        file = io.BytesIO(archive(honest if title != "archive/data.pkl" else honest[1:]))
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr(title, content)
        return file.getvalue()

    def patched(place: int, replacement: bytes) -> bytes:
        return whole[:place] + replacement + whole[place + len(replacement) :]

    def of_size(size: int) -> bytes:
        return archive([Entry("archive/data.pkl", pickled(1), size=size)])

    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**64 - 1, 2**64 - 1)
    zip64 += struct.pack("<4sIQI", b"PK\6\7", 0, len(whole) - 22, 1)
    zip64 += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return {
        "of the name": {
            "an absolute name": with_entry("/etc/passwd", b"x"),
            "an absolute name by backslash": with_entry("\\windows\\x", b"x"),
            "a name that leads out": with_entry("archive/../../x", b"x"),
            "a name that leads out by backslashes": with_entry("archive\\..\\..\\x", b"x"),
            "a name with a drive": with_entry("C:/windows/x", b"x"),
            "a name with a null": with_entry("archive/x\0y", b"x"),
            "a name that is empty": with_entry("", b"x"),
        },
        "two entries of the name 'archive/data": {
            "the same name twice": with_entry("archive/data/0", bytes(16)),
            "two data.pkl of one name": with_entry("archive/data.pkl", pickled(1)),
        },
        "without data.pkl": {
            "two data.pkl": with_entry("other/data.pkl", pickled(1)),
            "no data.pkl": archive(honest[1:]),
            "data.pkl in no folder": archive([Entry("data.pkl", pickled(1))]),
            "another kind of archive": archive([Entry("word/document.xml", b"<x/>")]),
        },
        "compressed or encrypted": {
            "a compressed entry": deflated("archive/data/1", b"0" * 1000),
            "a compressed data.pkl": deflated("archive/data.pkl", pickled(1) * 100),
            "a bomb": lambda: deflated("archive/data/1", bytes(200 * 2**20)),
            "an encrypted entry": with_entry("archive/x", b"x", flags=0x801),
        },
        "is longer than the file": {
            "a data.pkl longer than the file": of_size(2**20),
            "a data.pkl of 3 GB that is not there": of_size(3 * 2**30),
            "a storage longer than the file": archive([*honest[:2], Entry("archive/data/0", bytes(16), size=2**31)]),
        },
        "big-endian": {
            "numbers that are big-endian": archive([honest[0], Entry("archive/byteorder", b"big"), *honest[2:]]),
        },
        "do not have their checksum": {"a byte of the pickle changed": patched(64 + 3, b"\0")},
        "cannot be read": {
            "another name at the place": archive(
                [*honest[:2], Entry("archive/data/0", bytes(16), local_name="archive/data/1")]
            ),
            "the first entry is elsewhere": patched(directory + 42, struct.pack("<I", 5)),
            "the first entry is far away": patched(directory + 42, struct.pack("<I", 2**31)),
            "entries before the beginning": archive(honest, moved=len(whole)),
            "entries a little before their places": archive(honest, moved=1),
        },
        "zip archive": {
            "no entries": archive([]),
            "a directory of 4 GB": patched(len(whole) - 10, b"\xfe" * 4),
            "a zip64 directory of 2**64": whole[:-22] + zip64,
            "only the beginning of an archive": b"PK",
            **{f"{part} quarters of an archive": whole[: len(whole) * part // 4] for part in (1, 2, 3)},
            "all but the last byte of an archive": whole[:-1],
        },
    }


def _legacies() -> dict[str, dict[str, object]]:
    """Part of a message -> title -> a file in the format before the zip archive, or in no format."""

    def store(number=4, view=None) -> Code:
        return storage("5", number, "FloatStorage", "cpu", view)

    data, value = {"5": (4, bytes(16))}, tensor(store=store())
    whole, terabyte = legacy(value, data), {"5": (2**38, bytes(16))}
    safetensors = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(72)
    return {
        "neither a zip archive nor a file of pickles": {
            "another magic number": legacy(value, data, magic=5),
            "a magic number of text": legacy(value, data, magic="x"),
            "another protocol": legacy(value, data, protocol=1002),
            "an empty file": b"",
            "one byte": b"P",
            "plain text": b"It is a long way to Tipperary.\n" * 20,
            "a web page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
            "a version of git's large files": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a file of safetensors": struct.pack("<Q", 72) + safetensors + bytes(16),
            "an array of numpy's": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
            "any pickle": pickle.dumps({"a": [1, 2, 3]}),
        },
        "not little-endian": {
            "a big-endian system": legacy(value, data, system={"little_endian": False}),
            "a system that does not say": legacy(value, data, system={"x": 1}),
            "a system that is a list": legacy(value, data, system=[1]),
        },
        "torch.FloatStorage": {"a storage in the magic number": legacy(value, data, magic=store())},
        "list of storages does not match": {
            "storages that are no list": legacy(value, data, keys={"5": 1}),
            "storages that are no text": legacy(value, data, keys=[5]),
            "storages without end": legacy(value, data, keys=[_doubled(60)]),
            "a storage listed twice": legacy(value, data, keys=["5", "5"]),
            "a storage listed that no tensor uses": legacy(value, data, keys=["5", "6"]),
            "a storage that is not listed": legacy(value, {}, keys=[]),
        },
        "not as long in the file": {
            "a storage that says it is longer": legacy(value, {"5": (5, bytes(16))}),
            "a storage of less than nothing": legacy(value, {"5": (-4, bytes(16))}),
            "a file that ends after its pickles": whole[:-24],
        },
        "longer than the rest of the file": {
            "a storage that ends early": legacy(value, {"5": (4, bytes(15))}),
            "a storage of a terabyte": legacy(tensor(store=store(2**38)), terabyte),
        },
        "described in two ways": {"a storage of two lengths": legacy([value, tensor((2,), store=store(2))], data)},
        "before 0.4": {"a storage within a storage": legacy(tensor(store=store(4, ("6", 0, 4))), data)},
        "beyond the end of storage 5": {"a tensor beyond its storage": legacy(tensor((5,), store=store()), data)},
        "damaged": {"a file that ends in its pickles": whole[:60]},
        "is longer than 16777216": {"a name without end in the old format": lambda: legacy("x" * 17 * 2**20, {})},
    }


def _refused(groups: dict[str, dict[str, object]], finish: Callable[[object], bytes]) -> dict[str, Case]:
    def build(content: object) -> bytes:
        return finish(content() if callable(content) else content)

    return {
        title: Case(lambda _, c=content: build(c), named)
        for named, contents in groups.items()
        for title, content in contents.items()
    }


CASES = {
    **_calls(),
    **_refused(_opcodes(), zipped),
    **_refused(_tensors(), zipped),
    **_refused(_archives(), bytes),
    **_refused(_legacies(), bytes),
}
