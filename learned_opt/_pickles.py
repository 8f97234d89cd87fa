"""Reads pickled arrays without unpickling.

Python's unpickler calls whatever a file tells it to call. This reader follows the operations of a
pickle one by one instead. They make numbers, strings, containers and arrays. A name in the file is
only ever a string, which is looked up in `_CALLS`: nothing is imported, and no function that the
file chooses is called.

What a file makes is never much larger than the file. A string of it may be encoded once and fill an
array once, counted over the whole file, and there is a limit on its number of operations.

The reader knows protocols 0 to 5, the strings of Python 2, and what pickle and dill write for
dictionaries of NumPy arrays.
"""

import math
import os
import re
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

MAX_DEPTH = 4  # dictionaries within dictionaries
MAX_OPERATIONS = 200_000  # an array needs about 40
_MAX_DIMENSIONS = 8
_MAX_QUOTED = 80  # characters of a file in a message
_MISFIT = "its operations do not fit together"
_CUT = "it ends in the middle"


def read_arrays(path: str | os.PathLike) -> dict[tuple[str, ...], np.ndarray]:
    """Reads the arrays of a pickled dictionary, and of dictionaries within it.

    Args:
      path: the file.

    Returns:
      A dict from the keys that lead to an array, a tuple of strings, to the array, which is
      read-only. The arrays together have no more bytes than the file.

    Raises:
      ValueError: if the file is truncated or no pickle; if it holds anything but numeric arrays in
        dictionaries whose keys are strings; if it calls anything that such arrays do not need; or
        if several arrays share their data.
    """
    with open(path, "rb") as f:
        machine = _Machine(f.read())
    try:
        return _named_arrays(machine.run())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or is no pickle of arrays: {error}.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, struct.error) as error:
        raise ValueError(f"{path} is truncated or is no pickle of arrays: {_MISFIT}.") from error


class _Name(NamedTuple):
    """The name of something importable. It stays a name."""

    module: str
    name: str


class _DType:
    """An unfinished dtype: a pickle first names its kind and size, and later its byte order."""

    def __init__(self, name: str):
        if not re.fullmatch("[fiub][1248]", name):
            raise ValueError(f"it has an array of dtype {_short(name)}, and only numbers are read")
        self.name = name
        self.order = "="

    def set_state(
        self,
        machine: "_Machine",
        version: Any,
        order: str,
        *rest: Any,
    ) -> None:
        del machine, version
        is_structured = any(part is not None for part in rest[:3])
        if is_structured or order not in ("<", ">", "=", "|"):
            raise ValueError("it has an array of a structured dtype, and only numbers are read")
        self.order = order

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.name)


class _Array:
    """An unfinished array: a pickle first makes an empty one, and later says what is in it."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def set_state(
        self,
        machine: "_Machine",
        version: Any,
        shape: tuple,
        dtype: _DType,
        is_fortran: bool,
        data: Any,
    ) -> None:
        del version
        numpy_dtype = dtype.numpy()
        content = machine.as_bytes(data)
        if not _is_shape(shape) or math.prod(shape) * numpy_dtype.itemsize != len(content):
            raise ValueError("it has an array whose data do not fill its shape")
        machine.fill(len(content))
        flat = np.frombuffer(content, numpy_dtype)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


def _is_shape(shape: tuple) -> bool:
    if len(shape) > _MAX_DIMENSIONS:
        return False
    return all(type(size) is int and size >= 0 for size in shape)


def _named_arrays(top: Any) -> dict[tuple[str, ...], np.ndarray]:
    arrays: dict[tuple[str, ...], np.ndarray] = {}
    places: list[tuple[tuple[str, ...], Any]] = [((), top)]
    seen: set[int] = set()
    while places:
        keys, value = places.pop()
        place = _short("/".join(keys)) if keys else "its top"
        # A small file could name a large array, or a large dictionary, many times.
        if id(value) in seen:
            raise ValueError(f"it has the same object at {place} and elsewhere")
        seen.add(id(value))
        if isinstance(value, dict) and len(keys) < MAX_DEPTH:
            for key, inner in value.items():
                places.append(((*keys, key), inner))
        elif isinstance(value, _Array) and value.value is not None and keys:
            arrays[keys] = value.value
        else:
            kind = type(value).__name__.strip("_")
            raise ValueError(f"at {place} is {kind}, not an array in a dictionary")
    return arrays


class _Machine:
    """The state of reading one pickle: the place in the file, a stack, its marks, and a memo."""

    def __init__(self, content: bytes):
        self.content = content
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.num_encoded = 0
        self.num_filled = 0

    def run(self) -> Any:
        """Carries out all operations, and returns what is then on top of the stack."""
        for _ in range(MAX_OPERATIONS):
            operation = self.take(1)
            if operation == b".":
                return self.stack[-1]
            if operation in _VALUES:
                self.stack.append(_VALUES[operation](self))
            elif operation in _CHANGES:
                _CHANGES[operation](self)
            else:
                raise ValueError(f"it has the operation {operation!r}, which arrays do not need")
        raise ValueError(f"it has more than {MAX_OPERATIONS} operations")

    # Reading the file

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        start = self.at
        if size > len(self.content) - start:
            raise ValueError(_CUT)
        self.at = start + size
        return self.content[start : self.at]

    def line(self) -> bytes:
        """The bytes up to the end of the line."""
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise ValueError(_CUT)
        line = self.take(end - self.at)
        self.take(1)
        return line

    def number(self, size: int, signed: bool = False) -> int:
        """A number that takes `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def counted(self, size: int) -> bytes:
        """Bytes that stand behind their length, which is a number of `size` bytes."""
        return self.take(self.number(size))

    def text(self, size: int, encoding: str) -> str:
        """A string that stands behind its length, which is a number of `size` bytes."""
        return self.counted(size).decode(encoding)

    def long_number(self) -> int:
        """A number that stands behind its own length, which is one byte."""
        return self.number(self.number(1), signed=True)

    def written_number(self) -> int:
        """A line with a number in decimal digits; protocol 0 writes booleans as 00 and 01."""
        text = self.line()
        if text in (b"00", b"01"):
            return text == b"01"
        return int(text.removesuffix(b"L"))

    def written_float(self) -> float:
        """A line with a float in decimal digits."""
        return float(self.line())

    def binary_float(self) -> float:
        """A float in eight bytes."""
        (value,) = struct.unpack(">d", self.take(8))
        return value

    def quoted(self) -> str:
        """A line with the `repr` of a string of Python 2."""
        text = self.line().decode("latin-1").strip()[1:-1]
        return re.sub(r"\\(x[0-9a-f]{2}|.?)", _unescaped, text)

    def written_text(self) -> str:
        """A line with a string in which some characters are escaped."""
        return self.line().decode("raw_unicode_escape")

    def written_name(self) -> _Name:
        """Two lines, with a module and with a name in it."""
        module = self.line().decode()
        name = self.line().decode()
        return _checked_name(module, name)

    # What a small file could ask for many times

    def as_bytes(self, value: Any) -> bytes:
        """Returns an array's data as bytes.

        Python 2 and the old protocols of Python 3 write them as a string in latin-1.
        """
        if isinstance(value, str):
            self.num_encoded += len(value)
            if self.num_encoded > len(self.content):
                raise ValueError("it has one string in many places")
            return value.encode("latin-1")
        if not isinstance(value, bytes):
            raise ValueError("it has an array without data")
        return value

    def fill(self, size: int) -> None:
        """Counts the bytes of arrays: if they exceed those of the file, some arrays share them."""
        self.num_filled += size
        if self.num_filled > len(self.content):
            raise ValueError("it has several arrays that share their data")

    # The stack and the memo

    def pop(self, count: int) -> list:
        """Removes the last values of the stack, and returns them in their order."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError(_MISFIT)
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_marked(self) -> list:
        """Removes and returns the values of the stack behind the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def pop_tuple(self, count: int) -> tuple:
        """Removes the last values of the stack, and returns them as a tuple."""
        return tuple(self.pop(count))

    def pop_marked_tuple(self) -> tuple:
        """Removes the values of the stack behind the last mark, and returns them as a tuple."""
        return tuple(self.pop_marked())

    def pop_marked_dict(self) -> dict:
        """Removes the keys and values behind the last mark, and returns them as a dict."""
        return _put_items({}, self.pop_marked())

    def pop_name(self) -> _Name:
        """Removes a module and a name from the stack, and returns the name of the two."""
        return _checked_name(*self.pop(2))

    def pop_call(self) -> Any:
        """Removes a function and its arguments, and returns what stands for the result."""
        return _call(self, *self.pop(2))

    def pop_build(self) -> Any:
        """Removes an unfinished value and its state, and returns the finished value."""
        return _build(self, *self.pop(2))

    def mark(self) -> None:
        """Marks the place behind the top of the stack."""
        self.marks.append(len(self.stack))

    def append(self) -> None:
        """Appends the top of the stack to the list below it."""
        self._extend(self.pop(1))

    def append_marked(self) -> None:
        """Appends the values behind the last mark to the list below it."""
        self._extend(self.pop_marked())

    def _extend(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(_MISFIT)
        self.stack[-1].extend(values)

    def set_item(self) -> None:
        """Puts a key and a value into the dictionary below them."""
        items = self.pop(2)
        _put_items(self.stack[-1], items)

    def set_marked_items(self) -> None:
        """Puts the keys and values behind the last mark into the dictionary below it."""
        items = self.pop_marked()
        _put_items(self.stack[-1], items)

    def recall(self, size: int) -> Any:
        """What the memo has under a number that takes `size` bytes."""
        return self.memo[self.number(size)]

    def recall_written(self) -> Any:
        """What the memo has under a number in decimal digits."""
        return self.memo[int(self.line())]

    def memoize(self, size: int) -> None:
        """Puts the top of the stack into the memo, under a number that takes `size` bytes."""
        self.memo[self.number(size)] = self.stack[-1]

    def memoize_written(self) -> None:
        """Puts the top of the stack into the memo, under a number in decimal digits."""
        self.memo[int(self.line())] = self.stack[-1]

    def memoize_next(self) -> None:
        """Puts the top of the stack into the memo, under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def check_protocol(self) -> None:
        """Refuses protocols that are newer than this reader."""
        protocol = self.number(1)
        if protocol > 5:
            raise ValueError(f"it has the protocol {protocol}, newer than 5")

    def skip_frame(self) -> None:
        """Skips the length of a frame: the whole file is in memory."""
        self.take(8)


def _none(machine: _Machine) -> None:
    del machine


def _true(machine: _Machine) -> bool:
    del machine
    return True


def _false(machine: _Machine) -> bool:
    del machine
    return False


def _empty(kind: type, machine: _Machine) -> Any:
    del machine
    return kind()


# The operations that put a value on the stack, each a function of the machine.
_VALUES: dict[bytes, Callable] = {
    b"N": _none,
    b"\x88": _true,
    b"\x89": _false,
    b"I": _Machine.written_number,
    b"L": _Machine.written_number,
    b"K": partial(_Machine.number, size=1),
    b"M": partial(_Machine.number, size=2),
    b"J": partial(_Machine.number, size=4, signed=True),
    b"\x8a": _Machine.long_number,
    b"F": _Machine.written_float,
    b"G": _Machine.binary_float,
    b"S": _Machine.quoted,
    b"U": partial(_Machine.text, size=1, encoding="latin-1"),
    b"T": partial(_Machine.text, size=4, encoding="latin-1"),
    b"V": _Machine.written_text,
    b"\x8c": partial(_Machine.text, size=1, encoding="utf-8"),
    b"X": partial(_Machine.text, size=4, encoding="utf-8"),
    b"\x8d": partial(_Machine.text, size=8, encoding="utf-8"),
    b"C": partial(_Machine.counted, size=1),
    b"B": partial(_Machine.counted, size=4),
    b"\x8e": partial(_Machine.counted, size=8),
    b"\x96": partial(_Machine.counted, size=8),
    b")": partial(_empty, tuple),
    b"]": partial(_empty, list),
    b"}": partial(_empty, dict),
    b"t": _Machine.pop_marked_tuple,
    b"l": _Machine.pop_marked,
    b"d": _Machine.pop_marked_dict,
    b"\x85": partial(_Machine.pop_tuple, count=1),
    b"\x86": partial(_Machine.pop_tuple, count=2),
    b"\x87": partial(_Machine.pop_tuple, count=3),
    b"c": _Machine.written_name,
    b"\x93": _Machine.pop_name,
    b"R": _Machine.pop_call,
    b"b": _Machine.pop_build,
    b"g": _Machine.recall_written,
    b"h": partial(_Machine.recall, size=1),
    b"j": partial(_Machine.recall, size=4),
}

# The other operations.
_CHANGES: dict[bytes, Callable] = {
    b"\x80": _Machine.check_protocol,
    b"\x95": _Machine.skip_frame,
    b"(": _Machine.mark,
    b"p": _Machine.memoize_written,
    b"q": partial(_Machine.memoize, size=1),
    b"r": partial(_Machine.memoize, size=4),
    b"\x94": _Machine.memoize_next,
    b"s": _Machine.set_item,
    b"u": _Machine.set_marked_items,
    b"a": _Machine.append,
    b"e": _Machine.append_marked,
}


def _call(
    machine: _Machine,
    function: Any,
    args: Iterable,
) -> Any:
    """Returns what stands for the result of a call in a pickle."""
    replacement = _CALLS[_known(function)]
    return replacement(machine, *args)


def _make_dict(machine: _Machine, *args: Any) -> dict:
    """A dict, an OrderedDict or a defaultdict.

    Python 2 hands pairs over. The factory of a defaultdict is left out: the result is only read.
    """
    del machine
    made: dict = {}
    for arg in args:
        if isinstance(arg, list):
            for key, value in arg:
                _put_items(made, [key, value])
        else:
            _known(arg)
    return made


def _encode(
    machine: _Machine,
    text: str,
    encoding: str,
) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("it has a string in an encoding other than latin1")
    return machine.as_bytes(text)


def _never(machine: _Machine) -> None:
    """A type that arrays name, and never call."""
    raise ValueError(_MISFIT)


def _make_dtype(
    machine: _Machine,
    name: str,
    *flags: Any,
) -> _DType:
    del machine, flags
    return _DType(name)


def _reconstruct(
    machine: _Machine,
    kind: Any,
    shape: Any,
    code: Any,
) -> _Array:
    """An empty array, whatever its class and shape: its state is all that counts."""
    del machine, kind, shape, code
    return _Array()


def _scalar(
    machine: _Machine,
    dtype: _DType,
    data: Any,
) -> _Array:
    return _from_buffer(machine, data, dtype, (), "C")


def _from_buffer(
    machine: _Machine,
    data: Any,
    dtype: _DType,
    shape: tuple,
    order: str,
) -> _Array:
    return _build(machine, _Array(), (1, shape, dtype, order == "F", data))


def _build(
    machine: _Machine,
    target: Any,
    state: tuple,
) -> Any:
    if not isinstance(target, (_Array, _DType)):
        raise ValueError("it changes something that is no array")
    target.set_state(machine, *state)
    return target


def _load_type(machine: _Machine, name: str) -> _Name:
    del machine
    is_dict = name in ("DictType", "DictionaryType")  # Python 2's names for it
    return _checked_name("builtins", "dict" if is_dict else name)


def _import_module(machine: _Machine, module: str) -> str:
    """The module's name: nothing is imported."""
    del machine
    return module


def _get_attr(
    machine: _Machine,
    module: str,
    name: str,
) -> _Name:
    del machine
    return _checked_name(module, name)


def _create_array(
    machine: _Machine,
    function: Any,
    args: Iterable,
    state: tuple,
    attributes: Any,
) -> _Array:
    if attributes is not None:
        raise ValueError("it has an array of a class of its own")
    return _build(machine, _call(machine, function, args), state)


# All that pickled arrays ask for, under today's names, and what is called instead, with
# `(machine, *args)`.
_CALLS: dict[str, Callable] = {
    "builtins.dict": _make_dict,
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": _make_dict,
    "_codecs.encode": _encode,
    "numpy.ndarray": _never,
    "numpy.dtype": _make_dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    # The ways by which dill reaches types, functions and arrays.
    "dill._dill._load_type": _load_type,
    "dill._dill._import_module": _import_module,
    "dill._dill._get_attr": _get_attr,
    "dill._dill._create_array": _create_array,
}
# Old and private names of the same things: what is replaced, and by what.
_MODULES = {"__builtin__": "builtins", "dill.dill": "dill._dill"}
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}


def _known(name: Any) -> str:
    """Returns the key in `_CALLS` of something importable, whichever of its names is used.

    Raises:
      ValueError: if `_CALLS` does not have it.
    """
    if not isinstance(name, _Name) or not all(isinstance(part, str) for part in name):
        raise ValueError(_MISFIT)
    module = _MODULES.get(name.module, name.module)
    module = module.replace("numpy._core.", "numpy.core.")
    module = module.replace("._multiarray_umath", ".multiarray")
    key = f"{module}.{name.name}"
    if key not in _CALLS:
        asked = _short(".".join(name))
        raise ValueError(
            f"it asks for {asked}, which arrays do not need and which could do anything"
        )
    return key


def _checked_name(module: Any, name: Any) -> _Name:
    checked = _Name(module, name)
    _known(checked)
    return checked


def _put_items(target: Any, items: list) -> dict:
    """Puts `items`, keys and values in turn, into the dictionary `target`, and returns it."""
    keys = items[::2]
    values = items[1::2]
    is_fitting = type(target) is dict and len(keys) == len(values)
    if not is_fitting or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has a dictionary with keys other than strings")
    target.update(zip(keys, values, strict=True))
    return target


def _unescaped(escape: re.Match) -> str:
    """The character that an escape in the `repr` of a Python 2 string stands for."""
    code = escape[1]
    if len(code) == 3:
        return chr(int(code[1:], 16))
    return _ESCAPES[code]


def _short(text: str) -> str:
    """The text in quotes; a long one without its end."""
    if len(text) > _MAX_QUOTED:
        text = text[:_MAX_QUOTED] + "..."
    return repr(text)
