"""Pickled arrays, read without unpickling.

Python's unpickler calls what a file tells it to call. Here a pickle's operations are followed one by one: they make
numbers, strings, containers and arrays, and a name in the file is only ever a string, looked up in `_CALLS`. Nothing is
imported, no function of the file's choice is called, and what is made is never much larger than the file.

It reads protocols 0 to 5, the strings of Python 2, and what pickle and dill wrote for dictionaries of NumPy arrays.
"""

import math
import re
import struct
from typing import NamedTuple

import numpy as np

MAX_DEPTH = 4  # dictionaries within dictionaries
_MAX_DIMENSIONS = 8
_MAX_QUOTED = 80  # characters of a file in a message
_MISFIT = "its operations do not fit together"


class _Name(NamedTuple):
    """A name of something importable. It stays a name."""

    module: str
    name: str


class _DType:
    """A dtype on its way: a pickle first names its kind and size, and later its byte order."""

    def __init__(self, name):
        if not re.fullmatch("[fiub][1248]", name):
            raise ValueError(f"it has an array of dtype {_short(name)}, and only numbers are read")
        self.name, self.order = name, "="

    def set_state(self, machine, version, order, *rest):
        del machine, version
        if order not in ("<", ">", "=", "|") or any(part is not None for part in rest[:3]):
            raise ValueError("it has an array of a structured dtype, and only numbers are read")
        self.order = order

    def numpy(self):
        return np.dtype(self.order + self.name)


class _Array:
    """An array on its way: a pickle first makes an empty one, and says later what is in it."""

    def __init__(self):
        self.value = None

    def set_state(self, machine, version, shape, dtype, is_fortran, data):
        del version
        data, dtype = machine.data(data), dtype.numpy()
        is_shape = len(shape) <= _MAX_DIMENSIONS and all(
            type(size) is int and size >= 0 for size in shape
        )
        if not is_shape or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("it has an array whose data do not fill its shape")
        self.value = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def read_arrays(path):
    """The arrays of a pickled dictionary, and of dictionaries within it.

    Args:
      path: the file.

    Returns:
      A dict from the keys that lead to an array, a tuple of strings, to the array, which is read-only.

    Raises:
      ValueError: if the file is truncated or no pickle, holds anything but numeric arrays in dictionaries with strings
        for keys, or asks for anything to be called that such arrays do not need.
    """
    with open(path, "rb") as f:
        machine = _Machine(f.read())
    try:
        return _named_arrays(machine.run())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or is no pickle of arrays: {error}.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, struct.error) as error:
        raise ValueError(f"{path} is truncated or is no pickle of arrays: {_MISFIT}.") from error


def _named_arrays(top):
    arrays, places, seen = {}, [((), top)], set()
    while places:
        keys, value = places.pop()
        place = _short("/".join(keys)) if keys else "its top"
        if (
            id(value) in seen
        ):  # a small file could name a large array, or a large dictionary, many times
            raise ValueError(f"it has the same object at {place} and elsewhere")
        seen.add(id(value))
        if isinstance(value, dict) and len(keys) < MAX_DEPTH:
            places.extend(((*keys, key), inner) for key, inner in value.items())
        elif isinstance(value, _Array) and value.value is not None and keys:
            arrays[keys] = value.value
        else:
            raise ValueError(
                f"at {place} is {type(value).__name__.strip('_')}, not an array in a dictionary"
            )
    return arrays


class _Machine:
    """The state of reading one pickle: where it is in the file, its stack, the marks on it, and its memo."""

    def __init__(self, content):
        self.content, self.at = content, 0
        self.stack, self.marks, self.memo = [], [], {}
        self.budget = len(content)

    def run(self):
        while (operation := self.take(1)) != b".":
            if operation in _VALUES:
                self.stack.append(_VALUES[operation](self))
            elif operation in _CHANGES:
                _CHANGES[operation](self)
            else:
                raise ValueError(f"it has the operation {operation!r}, which arrays do not need")
        return self.stack[-1]

    def take(self, size):
        """The next bytes."""
        if size > len(self.content) - self.at:
            raise ValueError("it ends in the middle")
        self.at += size
        return self.content[self.at - size : self.at]

    def line(self):
        """The bytes up to the end of the line."""
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise ValueError("it ends in the middle")
        return self.take(end + 1 - self.at)[:-1]

    def number(self, size, signed=False):
        """A number of so many bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def counted(self, size):
        """Bytes that stand behind their number, a number of `size` bytes."""
        return self.take(self.number(size))

    def data(self, value):
        """Bytes as bytes: Python 2, and the first protocols of Python 3, have strings of latin-1 in their place."""
        if isinstance(value, str):
            self.budget -= len(value)  # a large string could be encoded many times
            if self.budget < 0:
                raise ValueError("it has one string in many places")
            return value.encode("latin-1")
        if not isinstance(value, bytes):
            raise ValueError("it has an array without data")
        return value

    def pop(self, count):
        """The last values of the stack, in their order."""
        if count > len(self.stack):
            raise ValueError(_MISFIT)
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_marked(self):
        """The values of the stack behind the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def append(self, values):
        """Appends to the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise ValueError(_MISFIT)
        self.stack[-1].extend(values)

    def set_items(self, items):
        """Puts keys and values into the dictionary on top of the stack."""
        _put_items(self.stack[-1], items)

    def put(self, index):
        """Puts the top of the stack into the memo."""
        self.memo[index] = self.stack[-1]

    def check_protocol(self):
        if (protocol := self.number(1)) > 5:
            raise ValueError(f"it has the protocol {protocol}, newer than 5")


def _put_items(target, items):
    if (
        type(target) is not dict
        or len(items) % 2
        or not all(isinstance(key, str) for key in items[::2])
    ):
        raise ValueError("it has a dictionary with keys other than strings")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _known(name):
    """The key in `_CALLS` of something importable, whichever of its names it goes by; ValueError if there is none."""
    if not isinstance(name, _Name) or not all(isinstance(part, str) for part in name):
        raise ValueError(_MISFIT)
    module = {"__builtin__": "builtins", "dill.dill": "dill._dill"}.get(name.module, name.module)
    module = module.replace("numpy._core.", "numpy.core.").replace(
        "._multiarray_umath", ".multiarray"
    )
    if f"{module}.{name.name}" not in _CALLS:
        raise ValueError(
            f"it asks for {_short('.'.join(name))}, which arrays do not need and which could do anything"
        )
    return f"{module}.{name.name}"


def _name(module, name):
    checked = _Name(module, name)
    _known(checked)
    return checked


def _make_dict(machine, *args):
    """A dict, an OrderedDict (Python 2 hands over pairs), or a defaultdict without its factory: it is only read."""
    del machine
    made = {}
    for arg in args:
        if isinstance(arg, list):
            _put_items(made, [part for key, value in arg for part in (key, value)])
        else:
            _known(arg)
    return made


def _encode(machine, text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("it has a string in an encoding other than latin1")
    return machine.data(text)


def _build(machine, target, state):
    if not isinstance(target, (_Array, _DType)):
        raise ValueError("it changes something that is no array")
    target.set_state(machine, *state)
    return target


def _from_buffer(machine, data, dtype, shape, order):
    return _build(machine, _Array(), (1, shape, dtype, order == "F", data))


def _create_array(machine, function, args, state, attributes):
    if attributes is not None:
        raise ValueError("it has an array of a class of its own")
    return _build(machine, _call(machine, function, args), state)


def _call(machine, function, args):
    """What is made of a call in a pickle."""
    return _CALLS[_known(function)](machine, *args)


# All that pickled arrays ask for, by present names, and what is done instead: `(machine, *args)`.
_CALLS = {
    "builtins.dict": _make_dict,
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": _make_dict,
    "_codecs.encode": _encode,
    "numpy.ndarray": lambda machine: _Array(),  # it is named, and never called
    "numpy.dtype": lambda machine, name, *flags: _DType(name),
    "numpy.core.multiarray._reconstruct": lambda machine, kind, shape, code: _Array(),
    "numpy.core.multiarray.scalar": lambda machine, dtype, data: _from_buffer(
        machine, data, dtype, (), "C"
    ),
    "numpy.core.numeric._frombuffer": _from_buffer,
    # The ways by which dill reaches types, functions and arrays.
    "dill._dill._load_type": lambda machine, name: _name(
        "builtins", "dict" if name in _DICT_TYPES else name
    ),
    "dill._dill._import_module": lambda machine, module: module,
    "dill._dill._get_attr": lambda machine, module, name: _name(module, name),
    "dill._dill._create_array": _create_array,
}
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_DICT_TYPES = ("DictType", "DictionaryType")  # Python 2's names for it


def _integer(machine):
    text = machine.line()
    return text == b"01" if text in (b"00", b"01") else int(text.removesuffix(b"L"))


def _quoted(machine):
    """The string of which Python 2 wrote the `repr`."""
    text = machine.line().decode("latin-1").strip()[1:-1]
    return re.sub(r"\\(x[0-9a-f]{2}|.?)", lambda escape: _unescaped(escape[1]), text)


def _unescaped(escape):
    return chr(int(escape[1:], 16)) if len(escape) == 3 else _ESCAPES[escape]


# The operations that put a value on the stack.
_VALUES = {
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"I": _integer,
    b"L": _integer,
    b"K": lambda m: m.number(1),
    b"M": lambda m: m.number(2),
    b"J": lambda m: m.number(4, signed=True),
    b"\x8a": lambda m: m.number(m.number(1), signed=True),
    b"F": lambda m: float(m.line()),
    b"G": lambda m: struct.unpack(">d", m.take(8))[0],
    b"S": _quoted,
    b"U": lambda m: m.counted(1).decode("latin-1"),
    b"T": lambda m: m.counted(4).decode("latin-1"),
    b"V": lambda m: m.line().decode("raw_unicode_escape"),
    b"\x8c": lambda m: m.counted(1).decode(),
    b"X": lambda m: m.counted(4).decode(),
    b"\x8d": lambda m: m.counted(8).decode(),
    b"C": lambda m: m.counted(1),
    b"B": lambda m: m.counted(4),
    b"\x8e": lambda m: m.counted(8),
    b"\x96": lambda m: m.counted(8),
    b")": lambda m: (),
    b"t": lambda m: tuple(m.pop_marked()),
    b"\x85": lambda m: tuple(m.pop(1)),
    b"\x86": lambda m: tuple(m.pop(2)),
    b"\x87": lambda m: tuple(m.pop(3)),
    b"]": lambda m: [],
    b"l": lambda m: m.pop_marked(),
    b"}": lambda m: {},
    b"d": lambda m: _put_items({}, m.pop_marked()),
    b"c": lambda m: _name(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: _name(*m.pop(2)),
    b"R": lambda m: _call(m, *m.pop(2)),
    b"b": lambda m: _build(m, *m.pop(2)),
    b"g": lambda m: m.memo[int(m.line())],
    b"h": lambda m: m.memo[m.number(1)],
    b"j": lambda m: m.memo[m.number(4)],
}

# The other operations.
_CHANGES = {
    b"\x80": _Machine.check_protocol,
    b"\x95": lambda m: m.take(8),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"s": lambda m: m.set_items(m.pop(2)),
    b"u": lambda m: m.set_items(m.pop_marked()),
    b"a": lambda m: m.append(m.pop(1)),
    b"e": lambda m: m.append(m.pop_marked()),
}


def _short(text):
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "...")
