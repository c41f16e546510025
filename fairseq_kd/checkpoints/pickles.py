"""Scans the pickles of a checkpoint before torch reads them: calls and sizes are refused.

torch unpickles weights only, but a small file can still make it allocate far more memory, by
``bytearray(N)``, ``torch.Tensor(N)`` or repeated ``collections.OrderedDict`` calls. Therefore only
calls that checkpoints need are allowed, and their total size is bounded by the file size.
"""

import argparse
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import IO, Any, Dict, List, Sequence, Union

import torch

REBUILT_BY_TYPE = "torch._utils._rebuild_tensor_v3"  # whose storage has no type
REBUILT = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", REBUILT_BY_TYPE)
CALLED = {  # calls of checkpoints, and calls that are refused later with a better message
    *("argparse.Namespace", "collections.OrderedDict", "builtins.set", "builtins.complex"),
    *("torch.Size", "torch.device", "torch.serialization._get_layout", "_codecs.encode"),
    *REBUILT,
    *(f"torch._utils._rebuild_{what}" for what in ("parameter", "sparse_tensor")),
    "torch._utils._rebuild_meta_tensor_no_storage",
}
BYTES = {  # of a number in a storage of this name; in all others it has one
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
CALL_BYTES, VALUE_BYTES = 128, 32  # roughly what an object takes, and a value in a container
TIMES = 4  # maximum ratio of objects created to file size, tensors excluded
ROOM_BYTES = 1 << 20  # also allowed, for small files
MOST_VALUES, DEEPEST = 1_000_000, 100  # in all containers of a checkpoint; one in another
OLD_FORMAT_PICKLES = 5  # of torch before 1.6, which lie one after the other before the numbers
AGAIN = "Copy it again, or give another checkpoint of that training."
CUT_OFF = f"is cut off, its end is missing. {AGAIN}"
TOO_LARGE = (
    "is not a fairseq checkpoint: what torch would make of it is far larger than the file. Give a "
    "file that fairseq-train wrote."
)
BEYOND = (
    "is not a fairseq checkpoint: a tensor in it has the shape {size} from number {offset} on with "
    "the strides {stride}, but the file holds {held:,} numbers of it. Give a file that "
    "fairseq-train wrote."
)
CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True, "EMPTY_TUPLE": ()}
VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
EMPTY = {"EMPTY_DICT": "dict", "EMPTY_LIST": "list", "EMPTY_SET": "set"}


class ContentError(ValueError):
    """A pickle creates an object that checkpoints do not need, or that is too large.

    Its text is the rest of a sentence about the file.
    """


class CutOffError(ContentError):
    """A file ends within a pickle, or before the numbers of its tensors can end."""

    def __init__(self) -> None:
        super().__init__(CUT_OFF)


def python_object(name: str) -> str:
    """The end of an error message about a file that calls a class or function of this name."""
    return (
        f"holds a Python object besides weights, {name}, and is not loaded, since loading could "
        "run its code or fill the memory. If you trust the file, save it again with nothing but "
        "'model', 'args' or 'cfg', 'optimizer_history' and 'extra_state'."
    )


class Thing:
    """Placeholder for an object that unpickling would create.

    Args:
        name: of the class or function that makes it.
        size_bytes: roughly.

    Attributes:
        items: of a list.
    """

    def __init__(self, name: str, size_bytes: int = 0):
        self.name, self.size_bytes = name, size_bytes
        self.items: List[Any] = []


class Global(Thing):
    """Placeholder for a class or a function that a pickle names."""


class Storage(Thing):
    """Placeholder for the numbers of tensors.

    Args:
        name: of its class.
        count: of its numbers.
    """

    def __init__(self, name: str, count: int):
        super().__init__(name)
        self.number_bytes = BYTES.get(name.rpartition(".")[2][: -len("Storage")], 1)
        self.numbers_bytes = count * self.number_bytes


def check_pickles(path: Path, zipped: bool) -> None:
    """Checks that torch would create only allowed objects, not far larger than the file.

    Args:
        path: the file.
        zipped: whether it is of torch's present format.

    Raises:
        ContentError: it would create others.
        Exception: of any kind, where torch cannot read it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if zipped:
            content = torch._C.PyTorchFileReader(file).get_record("data.pkl")  # as torch.load does
            reader = _Reader(size)
            reader.read(content)
            with zipfile.ZipFile(file) as records:
                sizes = {
                    each.filename.partition("/")[2]: each.file_size for each in records.infolist()
                }
            for key, storage in reader.storages.items():
                if sizes.get(f"data/{key}") != storage.numbers_bytes:
                    raise ValueError(f"storage {key} and its record differ in size")
            return
        reader = _Reader(size)
        if size == 0:
            raise EOFError
        for _ in range(OLD_FORMAT_PICKLES):
            try:
                last = reader.read(file)
            except ValueError as error:
                if isinstance(error, ContentError) or file.read(1):
                    raise
                raise CutOffError from error
        if reader.storages.keys() != set(last.items):  # which torch reads; others hold anything
            raise ValueError(f"{last.items} are not the storages")


def values_in(content: Any, known: Dict[int, int], depth: int = 0) -> int:
    """How many values are in some content; those in a shared container as often as it is met.

    Args:
        content: what torch read.
        known: the numbers of containers, by their identity.
        depth: of containers around it.

    Raises:
        RecursionError: it is too deep, as what contains itself.
    """
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, (dict, list, tuple, set, frozenset)):
        return 1
    if depth > DEEPEST:
        raise RecursionError
    if id(content) not in known:
        inner = [*content, *content.values()] if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(values_in(each, known, depth + 1) for each in inner)
    return known[id(content)]


class _Reader:
    """Reads the pickles of one file by the instructions that torch knows, and by no other.

    Args:
        size_bytes: of the file.
    """

    def __init__(self, size_bytes: int):
        self.room = TIMES * size_bytes + ROOM_BYTES
        self.numbers_room = size_bytes
        self.storages: Dict[Any, Storage] = {}
        marked = torch.serialization.get_safe_globals()
        self.callable = CALLED | {
            each[1] if isinstance(each, tuple) else _path(each) for each in marked
        }

    def read(self, pickle: Union[bytes, IO[bytes]]) -> Any:
        """Reads one pickle to its last instruction, and returns its placeholder."""
        self.stack: List[Any] = []
        self.outer: List[List[Any]] = []
        self.memo: Dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(pickle):
            self._follow(opcode.name, argument)
        return self.stack[-1]

    def _follow(self, name: str, argument: Any) -> None:
        """Applies one instruction to the stack."""
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self._take(VALUE_BYTES)
            stack.append(Thing(EMPTY[name]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self.stack = self.outer.pop()
            if name == "TUPLE":
                self.stack.append(tuple(stack))
            else:
                self._fill(self.stack[-1], stack)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "SETITEM"):
            count = 1 if name == "APPEND" else 2
            values = stack[-count:]
            del stack[-count:]
            self._fill(stack[-1], values)
        elif name == "GLOBAL":
            stack.append(Global(_in_python_3(argument)))
        elif name == "BINPERSID":
            stack.append(self._storage(*stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, maker = stack.pop(), stack.pop()
            stack.append(self._made(maker, arguments))
        elif name == "BUILD":
            size_bytes = self._take(_size_bytes(stack.pop()))
            if stack[-1].name.startswith("torch."):  # whose storage it could change
                raise ValueError(f"a state of a {stack[-1].name}")
            stack[-1].size_bytes += size_bytes
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"{name} is not an instruction that torch writes into a pickle")

    def _made(self, maker: Any, arguments: Any) -> Thing:
        """The result of the call of a class or a function."""
        if not isinstance(maker, Global) or maker.name not in self.callable:
            raise ContentError(python_object(getattr(maker, "name", type(maker).__name__)))
        if maker.name == "_codecs.encode" and arguments[1:] != ("latin1",):
            raise ContentError(
                python_object(maker.name)
            )  # in other encodings a text grows, and grows again
        size_bytes = self._take(CALL_BYTES + _size_bytes(arguments))
        if maker.name == "torch.Size" and isinstance(arguments[0], tuple):
            return arguments[0]
        if maker.name in REBUILT:
            _check_extent(maker.name, *arguments)
        return Thing(maker.name, size_bytes)

    def _fill(self, container: Thing, values: List[Any]) -> None:
        """Puts values into a list, or keys and values into a dictionary."""
        container.size_bytes += VALUE_BYTES * len(values)
        if container.name == "list":
            container.items += values

    def _storage(
        self, what: str, kind: Thing, key: Any, _: str, count: int, view: None = None
    ) -> Storage:
        """The numbers of tensors; they lie in the file, and those of one key are read once."""
        storage = Storage(kind.name, count)
        known = self.storages.setdefault(key, storage)
        if what != "storage" or count < 0 or view is not None:
            raise ValueError(f"{what} of {count}, {view}")
        if (known.name, known.numbers_bytes) != (storage.name, storage.numbers_bytes):
            raise ValueError(f"two storages {key}")
        if known is storage:
            self.numbers_room -= storage.numbers_bytes
        if self.numbers_room < 0:
            raise CutOffError
        return storage

    def _take(self, size_bytes: int) -> int:
        self.room -= size_bytes
        if self.room < 0:
            raise ContentError(TOO_LARGE)
        return size_bytes


def _check_extent(
    maker: str,
    storage: Storage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    *more: Any,
) -> None:
    """Refuses a tensor that reaches beyond its storage, which torch would make larger.

    Args:
        maker: the function that makes it.
        storage: its numbers.
        offset: of its first one.
        size: its shape.
        stride: numbers from one index of a dimension to the next.
        more: other arguments of the function.
    """
    number_bytes = storage.number_bytes
    if maker == REBUILT_BY_TYPE:
        number_bytes = getattr(torch, more[2].name.rpartition(".")[2]).itemsize
    held = storage.numbers_bytes // number_bytes
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0:
        raise ValueError(f"a tensor of {size}, {stride} at {offset}")
    if 0 not in size and last >= held:
        raise ContentError(BEYOND.format(size=size, offset=offset, stride=stride, held=held))


def _size_bytes(value: Any) -> int:
    """The size of a shallow copy of a value."""
    parts = value if isinstance(value, tuple) else (value,)
    texts = sum(len(each) for each in parts if isinstance(each, str))
    tuples = sum(VALUE_BYTES * len(each) for each in parts if isinstance(each, tuple))
    return texts + tuples + sum(each.size_bytes for each in parts if isinstance(each, Thing))


def _in_python_3(named: str) -> str:
    """The path of an object that a pickle names, as torch resolves it."""
    module, _, name = named.partition(" ")
    if (module, name) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, name])
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _path(known: Any) -> str:
    return f"{known.__module__}.{known.__qualname__}"
