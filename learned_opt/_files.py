"""Files that appear whole or not at all, here or in a bucket (`gs://`, `s3://`).

Where a program runs in several processes, the first of them writes. The others wait for it, so
that all of them see the same files. All processes call these functions alike.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from learned_opt import _checks, devices


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary path beside `path`.

    When the block ends well, the temporary file takes the name `path`. When it does not, the
    temporary file is removed, and a file that was at `path` before stays as it was.

    Args:
      path: where the file is to be. Its folder is made if it is missing.
    """
    path = os.fspath(path)
    with devices.by_first():
        if not devices.is_first():
            written = _thrown_away(path)
        elif is_remote(path):
            written = _sent(path)
        else:
            written = _renamed(path)
        with written as temporary:
            yield temporary


@contextlib.contextmanager
def _thrown_away(path: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "file" + os.path.splitext(path)[1])


@contextlib.contextmanager
def _sent(path: str) -> Iterator[str]:
    """A bucket shows an object when all of it is there."""
    with _thrown_away(path) as temporary:
        yield temporary
        with open(temporary, "rb") as f:
            _remote(path).write_bytes(f.read())


@contextlib.contextmanager
def _renamed(path: str) -> Iterator[str]:
    folder = os.path.dirname(os.path.abspath(path))
    _make_folder_here(folder)
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


def write_json(
    path: str | os.PathLike,
    value: Any,
    indent: int = 2,
) -> None:
    """Writes plain data as a JSON file, whole; see `portable` for numbers that are not finite."""
    write_text(path, json.dumps(portable(value), indent=indent) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; raises ValueError that names the file if it holds no JSON."""
    content = read_bytes(path)
    try:
        return json.loads(content.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or is no JSON file ({error}): mend it, or remove it."
        ) from error


def read_bytes(path: str | os.PathLike) -> bytes:
    """The contents of a file; raises FileNotFoundError where there is none."""
    try:
        if is_remote(path):
            return _remote(path).read_bytes()
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}: check the path.") from error


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder, as the first process sees it."""
    return devices.of_first(is_seen(path))


def is_seen(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder, as this process sees it."""
    return _remote(path).exists() if is_remote(path) else os.path.exists(path)


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and those above it, unless they are there."""
    with devices.by_first():
        if not devices.is_first():
            pass
        elif is_remote(path):
            _remote(path).mkdir(parents=True, exist_ok=True)
        else:
            _make_folder_here(path)


def _make_folder_here(path: str | os.PathLike) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "there is a file in its way" if is_file else error.strerror
        raise type(error)(
            f"the folder {path} cannot be made, {reason}: choose another path."
        ) from error


def remove(path: str | os.PathLike) -> None:
    """Removes a file, unless it is not there."""
    with devices.by_first(), contextlib.suppress(FileNotFoundError):
        if not devices.is_first():
            pass
        elif is_remote(path):
            _remote(path).unlink()
        else:
            os.unlink(path)


def remove_folder(path: str | os.PathLike) -> None:
    """Removes a folder with all that is in it, unless it is not there."""
    with devices.by_first():
        if not devices.is_first():
            pass
        elif is_remote(path):
            _remote(path).rmtree(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def here(path: str | os.PathLike) -> Iterator[str]:
    """Yields a path at which a file can be read as a local one: its own, or that of a copy."""
    path = os.fspath(path)
    if not is_remote(path):
        yield path
        return
    with _thrown_away(path) as temporary:
        with open(temporary, "wb") as f:
            f.write(read_bytes(path))
        yield temporary


def absolute(path: str | os.PathLike) -> str:
    """A path from the root; that of a bucket is one."""
    path = os.fspath(path)
    return path if is_remote(path) else os.path.abspath(path)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path leads to a bucket, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def _remote(path: str | os.PathLike) -> Any:
    epath = _checks.extra("etils.epath", "'etils[epath,epy]' gcsfs", f"the path {path}")
    return epath.Path(os.fspath(path))


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
