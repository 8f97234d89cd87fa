"""Files that appear whole or not at all."""

import contextlib
import json
import os
import tempfile


@contextlib.contextmanager
def whole(path):
    """A temporary path beside `path` that takes its name when the block ends well, and goes when it does not."""
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The suffix stays: matplotlib and NumPy choose the format by it.
    handle, temporary = tempfile.mkstemp(
        dir=folder, prefix=".partial-", suffix=os.path.splitext(path)[1]
    )
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


def write_text(path, text):
    """Writes a text file, whole."""
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        f.write(text)


def write_json(path, value):
    """Writes a JSON file, whole; see `portable`."""
    write_text(path, json.dumps(portable(value), indent=2) + "\n")


def read_json(path):
    """Reads a JSON file; raises ValueError naming the file if it holds no JSON."""
    with open(path, encoding="utf-8") as f:
        try:
            return json.load(f)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is truncated or is no JSON file: {error}.") from error


def portable(value):
    """`value` (plain data) with numbers that are not finite as strings: JSON has none."""
    if isinstance(value, dict):
        return {str(k): portable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
