"""The TensorFlow code's files mean here what they meant there, and nothing in a file is ever run.

The files in `old_formats` are dumps of `network("cw")` and `network("rp")`, each a defaultdict of
dicts. A file's name tells the Python and the module that wrote it, and the protocol unless it is
the module's default.
"""

import collections
import contextlib
import os
import pathlib
import pickle
import shutil
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import _pickles, old_formats

FILES = sorted((pathlib.Path(__file__).parent / "old_formats").iterdir())
SHAPES = {
    "plain": {"linear": {"b": (1,), "w": (3, 1)}, "lstm_1": {"b_gates": (12,), "w_gates": (4, 12)}},
    "cw": {
        "linear": {"b": (1,), "w": (3, 1)},
        "lstm_1": {"b_gates": (16,), "w_gates": (6, 16)},
        "lstm_2": {"b_gates": (12,), "w_gates": (7, 12)},
    },
    "rp": {
        "input_projection": {"b": (5,), "w": (2, 5)},
        "linear": {"b": (1,), "w": (3, 1)},
        "lstm_1": {"b_gates": (16,), "w_gates": (9, 16)},
        "lstm_2": {"b_gates": (12,), "w_gates": (7, 12)},
    },
}


def network(kind):
    """A network as the TensorFlow code kept it: `{module: {variable: array}}`."""
    made, offset = collections.defaultdict(dict), 0
    for module, shapes in SHAPES[kind].items():
        for name, shape in shapes.items():
            n = np.prod(shape)
            made[module][name] = (
                np.sin(0.7 * np.arange(offset, offset + n)).astype(np.float32).reshape(shape)
            )
            offset += n
    return made


def dumped(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


# What the TensorFlow code computed, in NumPy and float64


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_and_sign(g, k):
    log = np.log(np.abs(g) + np.finfo(np.float32).eps) / k
    return np.concatenate([np.maximum(log, -1), np.clip(g * np.exp(k), -1, 1)], axis=1)


def adam_features(gradients, beta_1, beta_2):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        root = np.sqrt(v / (1 - beta_2**t)) + 1e-8
        yield np.concatenate([m / (1 - beta_1**t) / root, g / root], axis=1)


def tensorflow_updates(variables, gradients, scale, k=None, betas=(0.95, 0.95)):
    """Updates `[steps, n]` for gradients `[steps, n]`."""
    variables = {
        m: {name: x.astype(np.float64) for name, x in inner.items()}
        for m, inner in variables.items()
    }
    linear, projection = variables.pop("linear"), variables.pop("input_projection", None)
    layers = [variables[module] for module in sorted(variables)]
    state = [(np.zeros((gradients.shape[1], p["b_gates"].size // 4)),) * 2 for p in layers]
    gradients = gradients[:, :, None]
    features = (
        adam_features(gradients, *betas)
        if projection
        else (log_and_sign(g, k) if k else g for g in gradients)
    )
    for x in features:
        if projection:
            a = x @ projection["w"] + projection["b"]
            x = np.where(a > 0, a, np.expm1(a))
        for n, (p, (h, c)) in enumerate(zip(layers, state, strict=True)):
            i, j, f, o = np.split(
                np.concatenate([x, h], axis=1) @ p["w_gates"] + p["b_gates"], 4, axis=1
            )
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
            x = np.tanh(c) * sigmoid(o)
            state[n] = x, c
        y = (x @ linear["w"] + linear["b"])[:, 0]
        yield scale * (np.tanh(y) if projection else y)


def check_updates(opt, phi, kind, **settings):
    gradients = np.random.default_rng(0).normal(size=(7, 6)) * np.logspace(-2, 2, 6)
    tx = opt.transform(phi)
    state, update = tx.init(jnp.zeros(6)), jax.jit(tx.update)
    for g, expected in zip(
        gradients, tensorflow_updates(network(kind), gradients, **settings), strict=True
    ):
        got, state = update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * settings["scale"])


# What is read


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_old_pythons(path):
    kind = path.name[:2]
    got = _pickles.read_arrays(path)
    expected = {
        (module, name): x for module, inner in network(kind).items() for name, x in inner.items()
    }
    assert set(got) == set(expected)
    for name, x in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], x, rtol=1e-6)
    opt, phi = learned_opt.load(path)
    chex.assert_trees_all_equal_shapes_and_dtypes(phi, opt.init(jax.random.key(0)))


@pytest.mark.parametrize(
    ("kind", "given", "settings"),
    [
        ("plain", {}, {"scale": 1.0}),
        ("plain", {"output_scale": 0.3}, {"scale": 0.3}),
        ("cw", {}, {"scale": 0.01, "k": 5}),
        ("cw", {"preset": "mnist"}, {"scale": 0.1, "k": 10}),
        ("cw", {"preprocess_p": 7, "output_scale": 2}, {"scale": 2, "k": 7}),
        ("rp", {}, {"scale": 0.01}),
        ("rp", {"preset": "mnist"}, {"scale": 0.1}),
        ("rp", {"betas": (0.9, 0.99), "output_scale": 1}, {"scale": 1, "betas": (0.9, 0.99)}),
    ],
)
def test_updates_are_those_of_the_tensorflow_code(tmp_path, kind, given, settings):
    opt, phi = learned_opt.load(dumped(tmp_path / "cw.l2l", network(kind)), **given)
    check_updates(opt, phi, kind, **settings)


@pytest.mark.parametrize("kind", SHAPES)
def test_what_was_read_can_be_saved(tmp_path, kind):
    opt, phi = learned_opt.load(dumped(tmp_path / "cw.l2l", network(kind)), state_dtype="bfloat16")
    learned_opt.save(tmp_path / "new", opt, phi)
    loaded, loaded_phi = learned_opt.load(tmp_path / "new")
    assert loaded.spec == opt.spec
    assert opt.spec["args"]["state_dtype"] == "bfloat16"
    chex.assert_trees_all_equal(loaded_phi, phi)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_container_and_number(tmp_path, protocol):
    base = network("cw")
    made = [
        dict(base),
        collections.OrderedDict(base),
        {"cw": base},
        {
            f"vars_optimizer/cw_deep_lstm/{m}/{name}:0": x
            for m, inner in base.items()
            for name, x in inner.items()
        },
        *(
            {m: {name: change(x) for name, x in inner.items()} for m, inner in base.items()}
            for change in (
                np.asfortranarray,
                lambda x: x.astype(">f4"),
                lambda x: x.astype(np.float64),
                lambda x: x.copy()[::1],
            )
        ),
    ]
    _, expected = learned_opt.load(dumped(tmp_path / "cw.l2l", base, protocol))
    for value in made:
        _, phi = learned_opt.load(dumped(tmp_path / "cw.l2l", value, protocol))
        chex.assert_trees_all_equal(phi, expected)
        chex.assert_trees_all_equal_dtypes(phi, expected)


def test_ordered_pairs_of_python_2_and_scalars(tmp_path):
    content = (
        b"\x80\x02ccollections\nOrderedDict\n]]U\x01aacnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x04\x00\x00\x80?\x86Raa"
        b"\x85R."
    )
    (tmp_path / "o").write_bytes(content)
    assert _pickles.read_arrays(tmp_path / "o") == {("a",): 1}
    assert pickle.loads(content, encoding="latin1") == {"a": 1}


# Which file is meant


def test_contents_tell_the_format_and_not_names(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(2,))
    learned_opt.save(tmp_path / "o", opt, opt.init(jax.random.key(0)))
    shutil.copy(tmp_path / "o.safetensors", tmp_path / "new.l2l")
    assert learned_opt.load(tmp_path / "new.l2l")[0].spec == opt.spec
    dumped(tmp_path / "old.safetensors", network("cw"))
    old, _ = learned_opt.load(tmp_path / "old")
    assert old.spec["args"]["hidden_sizes"] == [4, 3]


def test_what_was_saved_at_a_path_is_what_is_loaded_from_it(tmp_path):
    path = dumped(tmp_path / "rp.l2l-0", network("rp"))
    opt, phi = learned_opt.load(str(path))
    learned_opt.save(path, opt, jax.tree.map(lambda x: 2 * x, phi))
    chex.assert_trees_all_equal(learned_opt.load(path)[1], jax.tree.map(lambda x: 2 * x, phi))


# What is refused


def without(module, name=None):
    def change(variables):
        del (variables[module] if name else variables)[name or module]

    return change


def put(module, name, shape, dtype=np.float32):
    return lambda variables: variables[module].update({name: np.ones(shape, dtype)})


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("cw", without("linear", "b"), "no linear/b"),
        ("cw", without("lstm_1", "w_gates"), "no lstm_1/w_gates"),
        ("cw", without("lstm_1"), "no lstm_1"),
        ("cw", without("linear"), "no linear/w"),
        ("rp", without("input_projection", "b"), "no input_projection/b"),
        ("rp", without("input_projection"), r"5 features"),
        ("cw", lambda v: v.clear(), "no lstm_1"),
        ("cw", put("linear", "w", (3, 9)), r"linear/w of shape \(3, 9\), where .* has \(3, 1\)"),
        ("cw", put("linear", "w", (3,)), r"linear/w of shape \(3,\)"),
        ("cw", put("lstm_1", "b_gates", (15,)), r"lstm_1 with .*b_gates \(15,\)"),
        ("cw", put("lstm_1", "w_gates", (6, 12)), r"lstm_1 with w_gates \(6, 12\)"),
        ("cw", put("lstm_1", "w_gates", (4, 16)), r"lstm_1 with w_gates \(4, 16\)"),
        ("cw", put("lstm_1", "w_gates", (16,)), r"lstm_1 with w_gates \(16,\)"),
        ("cw", put("lstm_1", "b_gates", ()), r"lstm_1 with .*b_gates \(\)"),
        ("cw", put("lstm_1", "w_gates", (7, 16)), "reads 3 features"),
        (
            "cw",
            put("lstm_2", "w_gates", (8, 12)),
            "lstm_2 with 5 inputs, where the layer before has 4 units",
        ),
        ("rp", put("input_projection", "w", (3, 5)), r"input_projection/w of shape \(3, 5\)"),
        ("cw", put("lstm_1", "w_f_diag", (4,)), r"no optimizer here takes \(lstm_1/w_f_diag\)"),
        ("cw", put("lstm_4", "b_gates", (8,)), "lstm_4/b_gates"),
        (
            "cw",
            put("initial_state", "hidden", (1, 4)),
            "initial_state/hidden.*trained initial states are not read",
        ),
        (
            "cw",
            lambda v: v.update(fc={"lstm_1": {"b_gates": np.ones(3)}}),
            "lstm_1/b_gates more than once",
        ),
        ("cw", put("linear", "b", (1,), np.int32), "linear/b with entries"),
        ("cw", lambda v: v["linear"].update(b=np.float32([np.nan])), "linear/b with entries"),
        ("cw", lambda v: v["linear"].update(b=np.float64([1e300])), "linear/b with entries"),
    ],
)
def test_other_networks(tmp_path, kind, change, message):
    variables = network(kind)
    change(variables)
    path = dumped(tmp_path / "cw.l2l", variables)
    with pytest.raises(ValueError, match=f"{path} .*{message}"):
        learned_opt.load(path)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("plain", {"preset": "mnist"}, r"reads 1 features .*preprocess_p=10.0"),
        ("cw", {"preset": "quadratic"}, "reads 2 features .*preprocess_p=None"),
        ("cw", {"preset": "mnits"}, "Did you mean 'mnist'"),
        ("cw", {"hidden_sizes": (4, 3)}, "says itself what hidden_sizes must be"),
        ("cw", {"betas": (0.9, 0.9)}, "'lstm' takes no argument 'betas'"),
        ("rp", {"preprocess_p": 3.0}, "'rnnprop' takes no argument 'preprocess_p'"),
        ("rp", {"output_scale": -1}, "output_scale must be"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.load(dumped(tmp_path / "cw.l2l", network(kind)), **settings)


def test_settings_are_not_for_files_that_hold_them(tmp_path):
    opt = learned_opt.lstm(hidden_sizes=(2,))
    learned_opt.save(tmp_path / "o", opt, opt.init(jax.random.key(0)))
    with pytest.raises(
        ValueError, match=r"o.safetensors .* takes no output_scale, preset: leave that out"
    ):
        learned_opt.load(tmp_path / "o", preset="mnist", output_scale=1.0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_truncated(tmp_path, path):
    content, cut = path.read_bytes(), tmp_path / path.name
    for length in range(0, len(content), 17):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{cut} is truncated or is no"):
            learned_opt.load(cut)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_changed_bytes_do_no_more_than_change_arrays(tmp_path, path):
    changed = tmp_path / path.name
    size = path.stat().st_size
    for content in with_changed_bytes(path, num_files=150, num_bytes=1):
        changed.write_bytes(content)
        with contextlib.suppress(ValueError):
            assert sum(x.nbytes for x in _pickles.read_arrays(changed).values()) <= size


@pytest.mark.thorough
@pytest.mark.parametrize("num_bytes", [1, 4])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_many_changed_files(tmp_path, path, num_bytes):
    """A changed file is read or refused with a ValueError, and takes little memory either way."""
    changed = tmp_path / path.name
    tracemalloc.start()
    try:
        for content in with_changed_bytes(path, num_files=1000, num_bytes=num_bytes):
            changed.write_bytes(content)
            with contextlib.suppress(ValueError):
                _pickles.read_arrays(changed)
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


def with_changed_bytes(path, num_files, num_bytes):
    """The contents of a file, with so many bytes of it changed."""
    rng = np.random.default_rng(0)
    content = path.read_bytes()
    for _ in range(num_files):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=num_bytes):
            changed[place] = rng.integers(256)
        yield bytes(changed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"(",
        b"garbage",
        b"\x80\x04.",
        b"\x80\x02N.",
        b"\x80\x09}.",
        b"\x80\x02}.}",
        b"PK\x03\x04 zip",
        b"\x80\x02](K\x01K\x02e.",
    ],
)
def test_garbage(tmp_path, content):
    path = tmp_path / "cw.l2l"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} "):
        learned_opt.load(path)


# Pickles that mean harm


class Calling:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


class MyArray(np.ndarray):
    pass


def touch(path):
    path.touch()
    return {}


def harmful(canary):
    """Values whose pickles call something; most of the calls would make the file `canary`."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    array = np.ones(3)
    good = network("cw")
    npy = canary.with_suffix(".npy")
    return {
        "os.system": Calling(os.system, command),
        "eval": Calling(eval, code),
        "exec": Calling(exec, code),
        "open": Calling(open, str(canary), "w"),
        "function": Calling(touch, canary),
        "getattr": Calling(getattr, {}, "clear"),
        "nested": {"linear": {"b": [Calling(os.system, command)], "w": array}},
        "beside a good network": {**good, "more": Calling(os.system, command)},
        "as a factory": collections.defaultdict(Calling, good),
        "as a key": {("a", Calling(os.system, command)): array},
        "as an argument": Calling(np.dtype, Calling(os.system, command)),
        "numpy.load": Calling(np.load, npy, None, True),
        "numpy.fromfile": Calling(np.fromfile, npy),
        "numpy.memmap": Calling(np.memmap, canary, "u1", "w+", 0, (1,)),
        "numpy.save": Calling(np.save, npy, array),
        "numpy.array": Calling(np.array, [1.0]),
        "zeros": {"a": Calling(np.zeros, (10**6, 10**6))},
        "bytearray": Calling(bytearray, 10**12),
        "object array": {"a": np.array([Calling(os.system, command)])},
        "objects": {"a": np.array([{}, None])},
        "strings": {"a": np.array(["x"])},
        "structured": {"a": np.zeros(2, [("x", "f4")])},
        "dates": {"a": np.zeros(2, "M8[s]")},
        "class of arrays": {"a": array.view(MyArray)},
        "masked": {"a": np.ma.array([1.0])},
        "copyreg": pathlib.PurePosixPath("a"),
        "object": Calling(object),
        "set": {"a": {1.0}},
        "complex": {"a": 1j},
        "array as a key": {1.0: array},
        "a list": [array],
        "numbers": {"a": 1.0},
        "only an array": array,
        "a name": {"a": np.ndarray},
        "a state on a name": Calling(collections.OrderedDict, state={"a": 1}),
    }


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", harmful(pathlib.Path("x")))
def test_harmful_values(tmp_path, name, protocol):
    canary = tmp_path / "canary"
    path = dumped(tmp_path / "cw.l2l", harmful(canary)[name], protocol)
    with pytest.raises(
        ValueError, match=f"{path} is truncated or is no pickle of arrays: (it|at) "
    ):
        learned_opt.load(path)
    assert os.listdir(tmp_path) == ["cw.l2l"]


def test_the_canary_would_sing(tmp_path):
    pickle.loads(pickle.dumps(harmful(tmp_path / "canary")["nested"]))
    assert os.listdir(tmp_path) == ["canary"]


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for 'os.system'"),
        (b"(S'true'\nios\nsystem\n.", r"operation b'i'"),
        (b"(cos\nsystem\nS'true'\no.", "asks for 'os.system'"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", r"operation b'\\x81'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "asks for 'builtins.eval'"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x12OrderedDict.update\x93.", "asks for"),
        (b"\x80\x02cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.", "asks for 'numpy.f2py"),
        (b"\x80\x02cnumpy\nload\n.", "asks for 'numpy.load'"),
        (b"\x80\x02c__builtin__\neval\n.", "asks for"),
        (
            b"\x80\x02cdill._dill\n_load_type\nU\x0cFunctionType\x85R.",
            "asks for 'builtins.FunctionType'",
        ),
        (b"\x80\x02cdill._dill\n_create_function\n.", "asks for 'dill._dill._create_function'"),
        (
            b"\x80\x02cdill._dill\n_get_attr\ncdill._dill\n_import_module\nU\x02os\x85RU\x06system\x86RU\x04true\x85R.",
            "asks for 'os.system'",
        ),
        (
            b"\x80\x02cdill.dill\n_get_attr\ncnumpy\nndarray\nU\x06tofile\x86R.",
            "do not fit together",
        ),
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x04zlib\x86R.",
            "encoding other than latin1",
        ),
        (b"\x80\x02c_codecs\ndecode\n.", "asks for '_codecs.decode'"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "dtype 'O'"),
        (b"\x80\x02cnumpy\ndtype\nU\x03f4,\x85R.", "dtype 'f4,'"),
        (b"\x80\x02cnumpy\ndtype\n}U\x01xK\x01sb.", "changes something that is no array"),
        (b"\x80\x02}}b.", "changes something"),
        (b"\x80\x02Pname\n.", "operation b'P'"),
        (b"\x80\x02\x82\x01.", "operation"),
        (b"\x80\x05\x97.", "operation"),
        (b"\x80\x02(((((.", "do not fit"),
        (b"\x80\x02h\x07.", "do not fit"),
        (b"\x80\x02t.", "do not fit"),
        (b"\x80\x02K\x01R.", "do not fit"),
        (b"\x80\x02}K\x01K\x02s.", "keys other than"),
        (b"\x80\x02}Na.", "do not fit"),
        (b"\x80\x02Lx\n.", "int"),
        (b"\x80\x02F1e\n.", "float"),
    ],
)
def test_harmful_operations(tmp_path, operations, message):
    path = tmp_path / "cw.l2l"
    path.write_bytes(operations)
    with pytest.raises(
        ValueError, match=f"{path} is truncated or is no pickle of arrays: .*{message}"
    ):
        learned_opt.load(path)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
ARRAY = RECONSTRUCT + b"K\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
FILLED = b"(K\x01K\x01\x85" + DTYPE + b"\x89U\x04abcdtb"


def doubling(times):
    return b")q\x00" + b"h\x00h\x00\x86q\x00" * times


@pytest.mark.parametrize(
    "operations",
    [
        b"}U\x01a"
        + ARRAY
        + b"(K\x01\x8a\x06"
        + (2**40).to_bytes(6, "little")
        + b"\x85"
        + DTYPE
        + b"\x89U\x04abcdtbs.",
        b"}U\x01a"
        + ARRAY
        + b"(K\x01("
        + (b"\x8a\xff" + b"\x7f" * 255) * 3000
        + b"t"
        + DTYPE
        + b"\x89U\x04abcdtbs.",
        b"}U\x01a" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89U\x04abcdtbs.",
        RECONSTRUCT + b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85U\x01b\x87R.",
        b"\x8e" + (2**40).to_bytes(8, "little") + b"x.",
        b"\x96" + (2**40).to_bytes(8, "little") + b"x.",
        b"X\xff\xff\xff\x7fx.",
        b"T\xff\xff\xff\xffx.",
        b"Nr\xff\xff\xff\xff.",
        b"Np99999999999999\n.",
        (
            b"c_codecs\nencode\nq\x01X\x40\x42\x0f\x00"
            + b"x" * 10**6
            + b"q\x02U\x06latin1q\x03"
            + b"h\x01h\x02h\x03\x86R" * 2000
            + b"."
        ),
        doubling(200) + b"}h\x00K\x01s.",
        b"}U\x01a" + doubling(200) + b"s.",
        b"cnumpy\ndtype\n" + doubling(200) + b"\x85R.",
        b"cdill._dill\n_load_type\n" + doubling(200) + b"\x85R.",
        doubling(200) + b"h\x00\x93.",
        b"}q\x00U\x01ah\x00s.",
        b"}q\x01(U\x01a" + ARRAY + FILLED + b"q\x02U\x01bh\x02u.",
        b"}q\x00(" + b"".join(b"U\x01" + bytes([65 + i]) + b"h\x00" for i in range(50)) + b"u.",
        b"]" * 10**4 + b"a" * (10**4 - 1) + b".",
        b"}" + b"U\x01a}" * 10**4 + b"s" * 10**4 + b".",
        b"]" * 10**6 + b".",
        b"I" + b"9" * 10**5 + b"\n.",
        b"F" + b"9" * 10**5 + b"\n.",
    ],
    ids=lambda operations: repr(operations[:20]),
)
def test_bombs(tmp_path, operations):
    """Small files that unpickled would take much memory, or for ever."""
    path = tmp_path / "cw.l2l"
    path.write_bytes(b"\x80\x04" + operations)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{path} is truncated or is no pickle of arrays"):
            learned_opt.load(path)
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()


def deep_network(num_layers, num_units, w_data, b_data):
    """A network whose layers, all but the first, have these two strings as their data."""
    reconstruct = np.zeros(1).__reduce__()[0]

    def array(shape, data):
        state = (1, shape, np.dtype("f4"), False, data)
        return Calling(reconstruct, np.ndarray, (0,), b"b", state=state)

    variables = {"linear": {"w": np.ones((num_units, 1), "f4"), "b": np.ones(1, "f4")}}
    variables["lstm_1"] = {
        "w_gates": np.ones((1 + num_units, 4 * num_units), "f4"),
        "b_gates": np.ones(4 * num_units, "f4"),
    }
    for layer in range(2, num_layers + 1):
        variables[f"lstm_{layer}"] = {
            "w_gates": array((2 * num_units, 4 * num_units), w_data),
            "b_gates": array((4 * num_units,), b_data),
        }
    return variables


def test_arrays_may_not_share_their_data(tmp_path):
    """Each array is copied: a file of 0.3 MB with 200 layers would take more than 100 MB."""
    w, b = bytes(64 * 128 * 4 * 4), bytes(64 * 4 * 4)
    path = dumped(tmp_path / "cw.l2l", deep_network(200, 64, w, b), protocol=4)
    assert path.stat().st_size < 3e5
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"it has several arrays that share their data\.$"):
            learned_opt.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_arrays_that_do_not_share_their_data_may_fill_the_file(tmp_path):
    w, b = bytes(8 * 16 * 4 * 4), bytes(8 * 4 * 4)
    path = dumped(tmp_path / "cw.l2l", deep_network(2, 8, w, b), protocol=4)
    arrays = _pickles.read_arrays(path)
    assert sum(array.nbytes for array in arrays.values()) > 0.9 * path.stat().st_size


def test_no_module_is_imported_and_no_unpickler_runs(tmp_path, monkeypatch):
    path = dumped(tmp_path / "cw.l2l", network("cw"))

    def forbidden(*args, **kwargs):
        raise AssertionError(args)

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(np, "load", forbidden)
    with monkeypatch.context() as patched:
        patched.setattr("builtins.__import__", forbidden)
        assert len(_pickles.read_arrays(path)) == 6
    assert old_formats.is_old(path)
