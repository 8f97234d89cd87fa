"""Files that appear whole or not at all."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary path beside `path`.

    When the block ends well, the temporary file takes the name `path`. When it does not, the
    temporary file is removed, and a file that was at `path` before stays as it was.

    Args:
      path: where the file is to be. Its folder is made if it is missing.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The suffix stays: matplotlib and NumPy choose the format by it.
    suffix = os.path.splitext(path)[1]
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".partial-", suffix=suffix)
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole."""
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        f.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes plain data as a JSON file, whole; see `portable` for numbers that are not finite."""
    write_text(path, json.dumps(portable(value), indent=2) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; raises ValueError that names the file if it holds no JSON."""
    with open(path, encoding="utf-8") as f:
        try:
            return json.load(f)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is truncated or is no JSON file: {error}.") from error


def portable(value: Any) -> Any:
    """Returns plain data with numbers that are not finite as strings, since JSON has no such
    numbers.

    Example:
      >>> from learned_opt import _files
      >>> _files.portable({"loss": float("inf"), "steps": (1, 2)})
      {'loss': 'inf', 'steps': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(key): portable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _umask() -> int:
    """Returns the process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
