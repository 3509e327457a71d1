"""Files as ``torch.save`` writes them, and files that it would never write; put together byte by byte.

``CASES`` are the hostile ones. Each is built for the path of a canary: a file that exists afterwards if anything of
the hostile file was executed.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np


# Pickles. A value becomes the opcodes that leave it on the stack; ``Code`` is such opcodes already.
class Code(bytes):
    pass


def code(value) -> Code:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return Code({None: b"N", True: b"\x88", False: b"\x89"}[value])
    if isinstance(value, int):
        digits = pickle.encode_long(value)
        return Code(b"\x8a" + bytes([len(digits)]) + digits)
    if isinstance(value, float):
        return Code(b"G" + struct.pack(">d", value))
    if isinstance(value, str):
        return Code(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
    if isinstance(value, tuple):
        return Code(b"(" + b"".join(map(code, value)) + b"t")
    if isinstance(value, list):
        return Code(b"](" + b"".join(map(code, value)) + b"e")
    if isinstance(value, dict):
        return Code(b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u")
    raise TypeError(type(value))


def name(text: str) -> Code:
    return Code("c{}\n{}\n".format(*text.rsplit(".", 1)).encode())


def call(function, *arguments) -> Code:
    function = name(function) if isinstance(function, str) else function
    return Code(function + code(arguments) + b"R")


def storage(key="0", number=4, kind="FloatStorage", location="cpu", *more) -> Code:
    return Code(code(("storage", name(f"torch.{kind}"), key, location, number, *more)) + b"Q")


def tensor(size=(4,), stride=(1,), offset=0, store=None, *more) -> Code:
    store = storage() if store is None else store
    return call("torch._utils._rebuild_tensor_v2", store, offset, size, stride, False, ordered(), *more)


def ordered(items: Optional[dict] = None) -> Code:
    return Code(call("collections.OrderedDict") + (code(items)[1:] if items else b""))


def pickled(value) -> bytes:
    return b"\x80\x02" + code(value) + b"."


# The zip archive.
@dataclass
class Entry:
    name: str
    content: bytes
    method: int = zipfile.ZIP_STORED
    size: Optional[int] = None  # where it is to be a lie, as are the two below
    local_name: Optional[str] = None
    flags: int = 0x800

    @property
    def sizes(self) -> tuple[int, int]:
        size = len(self.content) if self.size is None else self.size
        return size, size


def archive(entries: Sequence[Entry], moved: int = 0) -> bytes:
    """A zip archive whose contents begin at multiples of 64 bytes, as PyTorch's do.

    Args:
        moved: is added to what the end of the archive says of the place of its directory.
    """
    file, directory = b"", b""
    for entry in entries:
        stored, local = entry.name.encode(), (entry.local_name or entry.name).encode()
        padding = -(len(file) + 30 + len(local) + 4) % 64
        common = (entry.flags, entry.method, 0, 0x21, zlib.crc32(entry.content), *entry.sizes)
        place = len(file)
        file += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *common, len(local), 4 + padding) + local
        file += struct.pack("<2sH", b"FB", padding) + b"Z" * padding + entry.content
        directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, *common, len(stored), *[0] * 5, place)
        directory += stored
    end = (0, 0, len(entries), len(entries), len(directory), len(file) + moved, 0)
    return file + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", *end)


def entries_of(value, storages: Optional[Mapping[str, bytes]] = None, root: str = "archive") -> list[Entry]:
    """What ``torch.save`` puts into its archive. Without ``storages``: a storage "0" of four float32."""
    storages = {"0": bytes(16)} if storages is None else storages
    content = value if type(value) is bytes else pickled(value)
    parts = {"data.pkl": content, "byteorder": b"little", **{f"data/{key}": data for key, data in storages.items()}}
    return [Entry(f"{root}/{part}", data) for part, data in {**parts, "version": b"3\n"}.items()]


def zipped(value, storages: Optional[Mapping[str, bytes]] = None, root: str = "archive") -> bytes:
    return archive(entries_of(value, storages, root))


def legacy(
    value,
    storages: Mapping[str, tuple[int, bytes]],
    magic=0x1950A86A20F9469CFC6C,
    protocol=1001,
    system=None,
    keys=None,
) -> bytes:
    """The format before the zip archive. ``storages``: key -> (how many elements the file says it has, its bytes)."""
    system = dict(protocol_version=1001, little_endian=True, type_sizes={}) if system is None else system
    head = [magic, protocol, system, value, list(storages) if keys is None else keys]
    return b"".join(map(pickled, head)) + b"".join(struct.pack("<q", n) + data for n, data in storages.values())


# An honest checkpoint: 21 tensors, views among them, about 100 kB.
KINDS = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "ByteStorage": np.uint8,
    "BFloat16Storage": np.uint16,
}


@dataclass
class Sample:
    """A file; what is in it; and where that lies in the file."""

    content: bytes
    arrays: dict[str, np.ndarray]
    storage_of: dict[str, str]  # name of a tensor -> key of its storage
    places: dict[str, range]  # key of a storage -> its bytes
    pickle: range


def sample(is_legacy: bool) -> Sample:
    rng = np.random.default_rng(7)
    items, arrays, storages, storage_of = {}, {}, OrderedDict(), {}

    def add(title: str, key: str, kind: str, data: np.ndarray, size=None, stride=None, offset=0) -> None:
        size = data.shape if size is None else size
        stride = tuple(step // data.itemsize for step in data.strides) if stride is None else stride
        store = storage(key, data.size, kind, "cpu", *((None,) if is_legacy else ()))
        items[title], storage_of[title], storages[key] = tensor(size, stride, offset, store), key, data
        steps = [step * data.itemsize for step in stride]
        arrays[title] = np.lib.stride_tricks.as_strided(data.ravel()[offset:], size, steps)

    for i, (kind, dtype) in enumerate(KINDS.items()):
        width = np.dtype(dtype).itemsize
        for j, shape in enumerate([(24, 20, 3), (3000 // width,), ()]):
            data = np.frombuffer(rng.bytes(int(np.prod(shape)) * width), dtype).reshape(shape)
            add(f"block{i}.{j}", str(3 * i + j), kind, data)
    base = rng.standard_normal((100, 90)).astype(np.float32)
    add("transposed", "20", "FloatStorage", base, (90, 100), (1, 90))
    add("every second", "20", "FloatStorage", base, (40, 30), (180, 2), 95)
    add("empty", "21", "FloatStorage", np.empty((0, 4), np.float32))
    value = {"state": ordered(items), "rest": [3, 1e-4, None, True, (1, 2)]}
    data = {key: array.tobytes() for key, array in storages.items()}
    content = zipped(value, data)
    if is_legacy:
        content = legacy(value, {key: (array.size, data[key]) for key, array in storages.items()})
    places, end = {}, len(content)
    for key in reversed(data):
        if is_legacy:
            start = end - len(data[key])
            end = start - 8
        else:
            local_name = f"archive/data/{key}".encode()
            start = -(-(content.index(local_name + b"FB") + len(local_name) + 4) // 64) * 64
        places[key] = range(start, start + len(data[key]))
    start = content.index(pickled(value))
    return Sample(content, arrays, storage_of, places, range(start, start + len(pickled(value))))


# The hostile ones.
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
        module = call("builtins.__import__", "os")
        return call(call("builtins.getattr", module, "system"), touch(canary))

    class Reduced:
        def __init__(self, canary: str) -> None:
            self.canary = canary

        def __reduce__(self):
            return exec, (script(self.canary),)

    def stacked(module: str, attribute: str, canary: str) -> Code:
        return Code(code(module) + code(attribute) + b"\x93" + code((touch(canary),)) + b"R")

    simple = {
        "os.system": touch,
        "posix.system": touch,
        "nt.system": touch,
        "subprocess.Popen": lambda canary: ["touch", canary],
        "subprocess.check_output": lambda canary: ["touch", canary],
        "builtins.eval": script,
        "builtins.exec": script,
        "builtins.__import__": lambda _: "os",
        "__builtin__.eval": script,
        "builtins.open": lambda canary: canary,
        "io.open": lambda canary: canary,
        "builtins.compile": script,
        "operator.attrgetter": lambda _: "system",
        "functools.partial": lambda _: name("os.system"),
        "pickle.loads": lambda canary: code(pickled(call("os.system", touch(canary))).decode("latin1")),
        "runpy.run_path": lambda canary: canary,
        "shutil.rmtree": lambda canary: canary,
        "socket.create_connection": lambda _: ("localhost", 1),
        "numpy.load": lambda canary: canary,
        "numpy.core.multiarray._reconstruct": lambda _: name("numpy.ndarray"),
        "numpy.fromfile": lambda canary: canary,
        "torch.load": lambda canary: canary,
        "torch.hub.load": lambda _: "someone/something",
        "torch.jit.load": lambda canary: canary,
        "torch.storage._load_from_bytes": lambda canary: pickled(call("os.system", touch(canary))).decode("latin1"),
        "torch.nn.modules.linear.Linear": lambda _: 4,
        "torch._utils._rebuild_qtensor": lambda _: 0,
        "torch._utils._rebuild_sparse_tensor": lambda _: 0,
        "torch._utils._import_dotted_name": lambda _: "os.system",
        "torch.package.PackageImporter": lambda canary: canary,
        "collections.OrderedDict.fromkeys": lambda _: (),
        "torch._utils._rebuild_tensor_v2.__globals__": lambda _: (),
    }
    cases = {
        text: Case(lambda canary, t=text, a=argument: zipped([tensor(), call(t, a(canary))]), text, True)
        for text, argument in simple.items()
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
        "BUILD": (
            lambda c: Code(call("tests.weights.hostile_pickles.Case") + code({"canary": c}) + b"b"),
            "tests.weights.hostile_pickles.Case",
        ),
        "a class never called": (lambda c: name("os.system"), "os.system"),
        "a key that is called": (lambda c: {call("builtins.exec", script(c)): tensor()}, "builtins.exec"),
        "a tensor's type": (
            lambda c: call(
                "torch._tensor._rebuild_from_type_v2",
                name("torch._utils._rebuild_tensor_v2"),
                name("os.X"),
                (storage(), 0, (4,), (1,)),
                {},
            ),
            "os.X",
        ),
    }
    for title, (make, named) in crafted.items():
        cases[title] = Case(lambda canary, m=make: zipped([tensor(), m(canary)]), named, True)
    for protocol in range(6):
        cases[f"__reduce__ by protocol {protocol}"] = Case(
            lambda canary, p=protocol: zipped(pickle.dumps(Reduced(canary), p)),
            "builtin__.exec" if protocol < 3 else "builtins.exec",
            True,
        )
    cases["a call in the legacy format"] = Case(
        lambda canary: legacy(call("os.system", touch(canary)), {}), "os.system", True
    )
    cases["a call instead of the magic number"] = Case(lambda canary: pickled(call("os.system", touch(canary))), "os.")
    cases["a call instead of the list of storages"] = Case(
        lambda canary: legacy([], {}, keys=call("os.system", touch(canary))), "os.system"
    )
    cases["a call in a persistent id"] = Case(
        lambda canary: zipped(Code(code(("storage", call("os.system", touch(canary)), "0", "cpu", 4)) + b"Q")),
        "os.system",
    )
    cases["a call that makes a tensor"] = Case(
        lambda canary: zipped(
            call("torch._tensor._rebuild_from_type_v2", name("os.system"), name("torch.Tensor"), (touch(canary),), {})
        ),
        "os.system",
    )
    return cases


def _doubled(times: int, final: bytes = b"") -> Code:
    """A tuple of twice the same tuple of twice the same ...: small in memory, without end as text or to hash."""
    return Code(b")" + b"2\x86" * times + final)


def _again_and_again(function: str, argument, times: int) -> Code:
    """A list of results of a function that is given one long argument, which the pickle contains once."""
    memorized = code(argument) + b"r\x01\0\0\0" + b"0" + name(function) + b"q\x02" + b"0"
    return Code(memorized + b"](" + b"h\x02h\x01\x85R" * times + b"e")


def _deep(times: int) -> Code:
    return Code(b")" + b"\x85" * times)


def _opcodes() -> dict[str, Case]:
    """Pickles that are wrong in themselves."""
    one = call("collections.OrderedDict")
    rebuild = name("torch._utils._rebuild_tensor_v2")
    pickles: dict[str, tuple[object, str]] = {
        "a global named by a number": (Code(code(1) + code("system") + b"\x93"), "no string"),
        "a global of a global": (Code(name("torch.Size") + code("system") + b"\x93"), "no string"),
        "a global with a name of a megabyte": (name("o." + "s" * 2**20), "more than 1000 characters"),
        "EXT1": (Code(b"\x82\x01"), "EXT1"),
        "EXT2": (Code(b"\x83\x01\x00"), "EXT2"),
        "EXT4": (Code(b"\x84\x01\x00\x00\x00"), "EXT4"),
        "NEXT_BUFFER": (Code(b"\x97"), "NEXT_BUFFER"),
        "an opcode that is none": (Code(b"\xff"), "damaged"),
        "PERSID": (Code(b"Pstorage\n"), "'storage'"),
        "the result of a known call called": (call(one, "touch"), "a OrderedDict"),
        "a string called": (call(code("eval"), "1"), "'eval'"),
        "a tensor called": (call(tensor(), "1"), "a LazyTensor"),
        "a storage type called": (call("torch.FloatStorage", 10**9), "torch.FloatStorage"),
        "a type called": (call("torch.float32"), "torch.float32"),
        "a call without arguments": (Code(name("torch.Size") + b"NR"), "torch.Size"),
        "a call with a string for arguments": (Code(rebuild + code("x") + b"R"), "_rebuild_tensor_v2"),
        "keywords": (Code(name("collections.OrderedDict") + b")" + code({"a": 1}) + b"\x92"), "with keywords"),
        "BUILD of a dict": (Code(code({}) + code({"__class__": 1}) + b"b"), "attributes of a dict"),
        "BUILD of a tensor": (Code(tensor() + code({"read": 1}) + b"b"), "attributes of a LazyTensor"),
        "BUILD of a global": (Code(name("torch.Size") + code({"x": 1}) + b"b"), "attributes of torch.Size"),
        "BUILD of a storage": (Code(storage() + code({"length": 2**40}) + b"b"), "attributes of a Storage"),
        "items for a tensor": (Code(tensor() + code("a") + code(1) + b"s"), "item of a LazyTensor"),
        "APPENDS to a dict": (Code(code({}) + b"(" + code(1) + b"e"), "appends to a dict"),
        "a key without a value": (Code(b"}(" + code("a") + b"u"), "a key without a value"),
        "a key that has no hash": (Code(b"}]Ns"), "unhashable"),
        "no STOP": (pickled(1)[:-1], "before seeing STOP"),
        "nothing at all": (b"", "before seeing STOP"),
        "only STOP": (b".", "nothing on the stack"),
        "two objects": (b"NN.", "more than one object"),
        "REDUCE on nothing": (b"R.", "nothing on the stack"),
        "TUPLE3 of two": (b"NN\x87.", "nothing on the stack"),
        "APPEND on nothing": (b"Na.", "nothing on the stack"),
        "a pop too many": (b"0.", "IndexError"),
        "a mark as the result": (b"(.", "nothing on the stack"),
        "a mark in a tuple": (b"(\x85.", "nothing on the stack"),
        "a mark in a list": (b"](a.", "nothing on the stack"),
        "a mark in the memo": (b"(q\x010h\x01.", "nothing on the stack"),
        "a mark twice": (b"(2tt.", "nothing on the stack"),
        "a tuple without a mark": (b"Nt.", "no mark"),
        "APPENDS without a mark": (b"]Ne.", "no mark"),
        "OBJ of nothing": (b"(o.", "damaged"),
        "a memo that is empty": (b"h\x05.", "KeyError"),
        "a memo of two thousand million": (b"Nr\xff\xff\xff\x7fj\xfe\xff\xff\x7f.", "KeyError"),
        "LONG4 of 2 GB": (b"\x8b\xff\xff\xff\x7f\x01.", "not enough data"),
        "LONG4 of less than nothing": (b"\x8b\xff\xff\xff\xff\x01.", "damaged"),
        "BINBYTES of 4 GB": (b"B\xff\xff\xff\xffx.", "but only"),
        "BINBYTES8 of 2**62": (b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "but only"),
        "BINUNICODE8 of 2**62": (b"\x8d" + struct.pack("<Q", 2**62) + b"x.", "but only"),
        "BYTEARRAY8 of 2**64": (b"\x96" + struct.pack("<Q", 2**64 - 1) + b"x.", "damaged"),
        "a number of a hundred thousand digits": (b"L" + b"9" * 100_000 + b"L\n.", "damaged"),
        "text that is none": (b"X\x02\0\0\0\xff\xfe.", "damaged"),
        "millions of empty lists": (lambda: b"]" * 3_000_000 + b".", "more than 1000000 opcodes"),
        "millions of memos": (lambda: b"]" + b"\x94" * 3_000_000 + b".", "more than 1000000 opcodes"),
        "twenty megabytes of text": (
            lambda: b"X" + struct.pack("<I", 20 * 2**20) + b"x" * 20 * 2**20 + b".",
            "is longer than",
        ),
        "a key without end": (Code(b"}" + _doubled(60) + b"Ns"), "tuple of tuples as a key"),
        "a key without ground": (Code(b"}" + _deep(200_000) + b"Ns"), "tuple of tuples as a key"),
        "a persistent id without end": (_doubled(60, b"Q"), "no storage"),
        "a persistent id without ground": (Code(_deep(200_000) + b"Q"), "no storage"),
        "a function without end": (call(_doubled(60), 1), "calls (a tuple, a tuple)"),
        "a size without end": (tensor((_doubled(60),)), "a tuple"),
        "a tensor's builder without end": (
            call("torch._tensor._rebuild_from_type_v2", _doubled(60), None, (), ()),
            "makes a tensor by",
        ),
        "a codec": (call("_codecs.encode", "x", "zlib"), "'zlib'"),
        "bytes that are encoded": (call("_codecs.encode", 5, "latin1"), "encodes 5"),
        "sizes of a text": (call("torch.Size", "1" * 1000), "torch.Size of '111"),
        "many long sizes": (_again_and_again("torch.Size", (None,) * 50_000, 10_000), "more than it contains"),
        "many long texts": (_again_and_again("_codecs.encode", "x" * 500_000, 10_000), "more than it contains"),
        "many large dictionaries": (
            _again_and_again("collections.OrderedDict", [(i, i) for i in range(20_000)], 10_000),
            "more than it contains",
        ),
    }
    return {
        title: Case(lambda _, v=value: zipped(v() if callable(v) else v), named)
        for title, (value, named) in pickles.items()
    }


def _tensors() -> dict[str, Case]:
    """Tensors and storages that are not in the file."""
    lists = Code(code([4]) + b"q\x07"), Code(code([1]) + b"q\x08")
    grown = [Code(memo + code(10**7) + b"a") for memo in (b"h\x07", b"h\x08")]
    parts = {
        "a persistent id that is a number": (Code(code(7) + b"Q"), "no storage: 7"),
        "a persistent id of another kind": (Code(code(("module", 1, "0", "cpu", 4)) + b"Q"), "('module'"),
        "a persistent id too short": (Code(code(("storage", name("torch.FloatStorage"), "0")) + b"Q"), "no storage"),
        "a storage of text for a type": (Code(code(("storage", "FloatStorage", "0", "cpu", 4)) + b"Q"), "no storage"),
        "a storage of tensors": (storage(kind="Tensor"), "torch.Tensor"),
        "a storage of a type that is not read": (storage(kind="QInt8Storage"), "QInt8Storage"),
        "a storage that is missing": (tensor(store=storage("1")), "'1' is not in its archive"),
        "a storage elsewhere": (tensor(store=storage("../data.pkl")), "'../data.pkl' is not in its archive"),
        "a storage with a number for a key": (tensor(store=storage(0)), "storage 0 of 4"),
        "a storage with a long key": (tensor(store=storage("0" * 10**6)), "'000"),
        "a storage of -1 elements": (tensor(store=storage(number=-1)), "-1 elements"),
        "a storage of 2**60 elements": (tensor(store=storage(number=2**60)), f"{2**60} elements"),
        "a storage of 2**47 elements": (tensor(store=storage(number=2**47)), "longer than its 16 bytes"),
        "a storage of 4.0 elements": (tensor(store=storage(number=4.0)), "4.0 elements"),
        "a storage of True elements": (tensor(store=storage(number=True)), "True elements"),
        "a storage longer than its entry": (tensor(store=storage(number=5)), "5 elements is longer than its 16 bytes"),
        "a storage of wider elements": (tensor(store=storage(kind="DoubleStorage")), "4 elements is longer"),
        "a negative size": (tensor((-4,)), "size (-4)"),
        "a negative stride": (tensor((4,), (-1,), 3), "stride (-1)"),
        "a negative offset": (tensor(offset=-1), "offset -1"),
        "sizes whose product overflows": (tensor((2**33, 2**33), (0, 0)), "more bytes than the whole file"),
        "sizes of nothing that overflow": (tensor((0, 2**40, 2**40), (0, 0, 0)), "damaged"),
        "a size of 2**70": (tensor((2**70,)), str(2**70)),
        "a size of a thousand digits": (tensor((2**2000,)), "size (1148"),
        "an offset beyond the end": (tensor((1,), (1,), 4), "beyond the end of archive/data/0"),
        "an offset far beyond the end": (tensor((1,), (1,), 2**47), "beyond the end"),
        "a size beyond the end": (tensor((5,)), "beyond the end"),
        "a stride beyond the end": (tensor((2,), (4,)), "beyond the end"),
        "strides beyond the end together": (tensor((2, 2), (2, 2)), "beyond the end"),
        "fewer strides than sizes": (tensor((2, 2), (1,)), "do not belong together"),
        "more strides than sizes": (tensor((), (1,)), "do not belong together"),
        "an expansion to 4 GB": (tensor((2**30,), (0,)), "more bytes than the whole file"),
        "many small expansions": (tensor((2,) * 30, (0,) * 30), "more bytes than the whole file"),
        "forty dimensions": (tensor((1,) * 40, (1,) * 40), "40 dimensions"),
        "a size of 4.0": (tensor((4.0,)), "size (4.0)"),
        "a size of True": (tensor((True,)), "size (True)"),
        "a size of text": (tensor(("4",)), "size ('4')"),
        "a size of None": (tensor((None,)), "size (None)"),
        "a text for sizes": (tensor("4", "1"), "do not belong together"),
        "a number for sizes": (tensor(4, 1), "size 4"),
        "a list for sizes": (tensor([4], [1]), "do not belong together"),
        "sizes that grow afterwards": ([tensor(*lists), *grown], "do not belong together"),
        "an offset of text": (tensor(offset="0"), "offset '0'"),
        "a tensor without a storage": (tensor(store=code({})), "without a storage"),
        "a tensor of a type that is none": (
            call("torch._utils._rebuild_tensor_v3", storage(), 0, (4,), (1,), False, None, name("torch.Tensor")),
            "unknown type",
        ),
        "a tensor of a type that is text": (
            call("torch._utils._rebuild_tensor_v3", storage(), 0, (4,), (1,), False, None, "float32"),
            "unknown type",
        ),
        "a tensor of a wider type than its storage": (
            call("torch._utils._rebuild_tensor_v3", storage(), 0, (4,), (1,), False, None, name("torch.float64")),
            "beyond the end",
        ),
        "a tensor of nothing": (call("torch._utils._rebuild_tensor_v2"), "missing"),
        "a tensor to be conjugated": (tensor((4,), (1,), 0, None, {"conj": True}), "conjugated"),
        "a parameter of text": (call("torch._utils._rebuild_parameter", "x", True, ordered()), "no tensor"),
        "a tensor by a tuple's items": (
            call("torch._tensor._rebuild_from_type_v2", name("torch._utils._rebuild_tensor_v2"), None, [1], ()),
            "makes a tensor by",
        ),
    }
    return {title: Case(lambda _, v=value: zipped(v), named) for title, (value, named) in parts.items()}


def _archives() -> dict[str, Case]:
    """Archives that are wrong in themselves."""
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

    bad_names = {
        "an absolute name": "/etc/passwd",
        "an absolute name by backslash": "\\windows\\x",
        "a name that leads out": "archive/../../x",
        "a name that leads out by backslashes": "archive\\..\\..\\x",
        "a name that is only two dots": "..",
        "a name with a drive": "C:/windows/x",
        "a name with a null": "archive/x\0y",
        "a name that is empty": "",
    }
    files = {title: (with_entry(entry, b"x"), "of the name") for title, entry in bad_names.items()}
    files |= {
        "the same name twice": (with_entry("archive/data/0", bytes(16)), "two entries of the name 'archive/data/0'"),
        "two data.pkl of one name": (with_entry("archive/data.pkl", pickled(1)), "two entries"),
        "two data.pkl": (with_entry("other/data.pkl", pickled(1)), "without data.pkl"),
        "no data.pkl": (archive(honest[1:]), "without data.pkl"),
        "data.pkl in no folder": (archive([Entry("data.pkl", pickled(1))]), "without data.pkl"),
        "no entries": (archive([]), "zip archive"),
        "a compressed entry": (
            deflated("archive/data/1", b"0" * 1000),
            "'archive/data/1' of its archive is compressed",
        ),
        "a compressed data.pkl": (deflated("archive/data.pkl", pickled(1) * 100), "is compressed"),
        "a bomb": (lambda: deflated("archive/data/1", bytes(200 * 2**20)), "is compressed"),
        "an encrypted entry": (with_entry("archive/x", b"x", flags=0x801), "is encrypted"),
        "a data.pkl longer than the file": (
            archive([Entry("archive/data.pkl", pickled(1), size=2**20)]),
            "is longer than the file",
        ),
        "a data.pkl of 3 GB that is not there": (
            archive([Entry("archive/data.pkl", pickled(1), size=3 * 2**30)]),
            "longer than 16777216 bytes",
        ),
        "a storage longer than the file": (
            archive([*honest[:2], Entry("archive/data/0", bytes(16), size=2**31)]),
            "is longer than the file",
        ),
        "another name at the place": (
            archive([*honest[:2], Entry("archive/data/0", bytes(16), local_name="archive/data/1")]),
            "another name at its place",
        ),
        "numbers that are big-endian": (
            archive([honest[0], Entry("archive/byteorder", b"big"), *honest[2:]]),
            "big-endian",
        ),
        "a byte of the pickle changed": (patched(64 + 3, b"\0"), "do not have their checksum"),
        "the first entry is elsewhere": (patched(directory + 42, struct.pack("<I", 5)), "not where it should be"),
        "the first entry is far away": (patched(directory + 42, struct.pack("<I", 2**31)), "not in the file"),
        "entries before the beginning": (archive(honest, moved=len(whole)), "is not in the file"),
        "entries a little before their places": (archive(honest, moved=1), "not where it should be"),
        "a directory of 4 GB": (patched(len(whole) - 10, b"\xfe" * 4), "not a whole zip archive"),
        "a zip64 directory of 2**64": (
            whole[:-22]
            + struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**64 - 1, 2**64 - 1)
            + struct.pack("<4sIQI", b"PK\6\7", 0, len(whole) - 22, 1)
            + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0),
            "not a whole zip archive",
        ),
        "only the beginning of an archive": (b"PK", "not a whole zip archive"),
        "another kind of archive": (archive([Entry("word/document.xml", b"<x/>")]), "not written by torch.save"),
    }
    for part in (1, 2, 3):
        files[f"{part} quarters of an archive"] = (whole[: len(whole) * part // 4], "not a whole zip archive")
    files["all but the last byte of an archive"] = (whole[:-1], "not a whole zip archive")
    return {
        title: Case(lambda _, c=content: c() if callable(c) else c, named) for title, (content, named) in files.items()
    }


def _legacies() -> dict[str, Case]:
    """Files in the format before the zip archive, and files of no format."""
    data, store = {"5": (4, bytes(16))}, storage("5", 4, "FloatStorage", "cpu", None)
    value = tensor(store=store)
    twice = [value, tensor((2,), store=storage("5", 2, "FloatStorage", "cpu", None))]
    view = tensor(store=storage("5", 4, "FloatStorage", "cpu", ("6", 0, 4)))
    whole = legacy(value, data)
    kind = "neither a zip archive nor a file of pickles"
    files = {
        "another magic number": (legacy(value, data, magic=5), kind),
        "a magic number of text": (legacy(value, data, magic="x"), kind),
        "another protocol": (legacy(value, data, protocol=1002), "a format of torch.save that is not known"),
        "a big-endian system": (legacy(value, data, system={"little_endian": False}), "not little-endian"),
        "a system that does not say": (legacy(value, data, system={"x": 1}), "not little-endian"),
        "a system that is a list": (legacy(value, data, system=[1]), "not little-endian"),
        "a storage in the magic number": (legacy(value, data, magic=store), "torch.FloatStorage"),
        "storages that are no list": (legacy(value, data, keys={"5": 1}), "list of storages is damaged"),
        "storages that are no text": (legacy(value, data, keys=[5]), "list of storages is damaged"),
        "storages that are lists": (legacy(value, data, keys=[["5"]]), "list of storages is damaged"),
        "storages without end": (legacy(value, data, keys=[_doubled(60)]), "list of storages is damaged"),
        "a storage listed twice": (legacy(value, data, keys=["5", "5"]), "list of storages is damaged"),
        "a storage listed that no tensor uses": (legacy(value, data, keys=["5", "6"]), "'6', which no tensor uses"),
        "a storage that is not listed": (legacy(value, {}, keys=[]), "('5') are not in the file"),
        "a storage that says it is longer": (legacy(value, {"5": (5, bytes(16))}), "not as long in the file"),
        "a storage that says it is shorter": (legacy(value, {"5": (3, bytes(16))}), "not as long in the file"),
        "a storage of less than nothing": (legacy(value, {"5": (-4, bytes(16))}), "not as long in the file"),
        "a storage that ends early": (legacy(value, {"5": (4, bytes(15))}), "longer than the rest of the file"),
        "a storage of two lengths": (legacy(twice, data), "described in two ways"),
        "a storage within a storage": (legacy(view, data), "before 0.4"),
        "a tensor beyond its storage": (legacy(tensor((5,), store=store), data), "beyond the end of storage 5"),
        "a storage of a terabyte": (
            legacy(tensor(store=storage("5", 2**38, "FloatStorage", "cpu", None)), {"5": (2**38, bytes(16))}),
            "longer than the rest of the file",
        ),
        "a file that ends after its pickles": (whole[:-24], "not as long in the file"),
        "a file that ends in its pickles": (whole[:60], "damaged"),
        "a name without end in the old format": (lambda: legacy("x" * 17 * 2**20, {}), "is longer than 16777216"),
        "an empty file": (b"", kind),
        "one byte": (b"P", kind),
        "another one byte": (b"\x80", kind),
        "plain text": (b"It is a long way to Tipperary.\n" * 20, kind),
        "a web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", kind),
        "a version of git's large files": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", kind),
        "a file of safetensors": (
            struct.pack("<Q", 72) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(72) + bytes(16),
            kind,
        ),
        "an array of numpy's": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", kind),
        "any pickle": (pickle.dumps({"a": [1, 2, 3]}), kind),
    }
    return {
        title: Case(lambda _, c=content: c() if callable(c) else c, named) for title, (content, named) in files.items()
    }


CASES = {**_calls(), **_opcodes(), **_tensors(), **_archives(), **_legacies()}
