"""The C++ loops against NumPy in float64, with every instruction set that this machine has."""

import functools
import os
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import native
from learned_opt.optimizers import network

built = pytest.mark.skipif(
    not native.available(), reason="the C++ loops were not built: there was no compiler"
)

# Inputs and layers: one to three of them, units that fill no tile, layers that grow and shrink.
NETWORKS = [
    (1, (1,)),
    (2, (3,)),
    (1, (33,)),
    (1, (5, 3)),
    (2, (20, 20)),
    (2, (3, 20, 5)),
    (1, (1, 33, 1)),
]
# Around the blocks of 32 and 64 coordinates, and more of them than a call has parts.
NUM_COORDINATES = [1, 2, 31, 33, 63, 64, 65, 127, 1000, 2500]


# The same in NumPy, with the features first


def sigmoid(x):
    return 1 / (1 + np.exp(-np.maximum(x, -700)))


def numpy_cell(layer, x_t, h_tm1, c_tm1):
    """`(h_t, c_t)` and a tuple of what the reverse pass reads."""
    z = np.concatenate([x_t, h_tm1])
    gates = layer["w"] @ z + layer["b"][:, None]
    i, f, g, o = np.split(gates, 4)
    i = sigmoid(i)
    f = sigmoid(f)
    g = np.tanh(g)
    o = sigmoid(o)
    c_t = f * c_tm1 + i * g
    tanh_c = np.tanh(c_t)
    return o * tanh_c, c_t, (z, i, f, g, o, c_tm1, tanh_c)


def numpy_cell_backward(layer, kept, dh, dc):
    """Cotangents of the weights, of `[x_t; h_tm1]` and of c_tm1."""
    z, i, f, g, o, c_tm1, tanh_c = kept
    dc = dc + dh * o * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * c_tm1 * f * (1 - f)
    dg = dc * i * (1 - g**2)
    do = dh * tanh_c * o * (1 - o)
    gates = np.concatenate([di, df, dg, do])
    of_weights = {"w": gates @ z.T, "b": gates.sum(1)}
    return of_weights, layer["w"].T @ gates, dc * f


def numpy_step(weights, x_t, hidden, cells):
    """`(y_t, hidden, cells)`, and what the reverse pass reads of each layer."""
    x = x_t
    layers = []
    for layer, h, c in zip(weights["layers"], hidden, cells, strict=True):
        layers.append(numpy_cell(layer, x, h, c))
        x = layers[-1][0]
    hidden, cells, kept = zip(*layers, strict=True)
    y_t = weights["output"]["w"] @ x + weights["output"]["b"]
    return (y_t, hidden, cells), kept


def numpy_pull_back(weights, x, dy, hidden, cells, tanh=False):
    """Back-propagation through time, by hand: the cotangents of the weights, and of x."""
    tape = []
    for x_t, dy_t in zip(x, dy, strict=True):
        (y_t, hidden, cells), kept = numpy_step(weights, x_t, hidden, cells)
        if tanh:
            dy_t = dy_t * (1 - np.tanh(y_t) ** 2)
        tape.append((dy_t, hidden[-1], kept))
    pulled = jax.tree.map(np.zeros_like, weights)
    dh = [np.zeros_like(h) for h in hidden]
    dc = [np.zeros_like(c) for c in cells]
    dx = np.zeros_like(x)
    for t in reversed(range(len(tape))):
        dy_t, h_t, kept = tape[t]
        pulled["output"]["w"] += h_t @ dy_t
        pulled["output"]["b"] += dy_t.sum()
        above = weights["output"]["w"][:, None] * dy_t
        for k in reversed(range(len(dh))):
            layer = weights["layers"][k]
            of_layer, dz, dc[k] = numpy_cell_backward(layer, kept[k], dh[k] + above, dc[k])
            pulled["layers"][k]["w"] += of_layer["w"]
            pulled["layers"][k]["b"] += of_layer["b"]
            num_inputs = dz.shape[0] - dh[k].shape[0]
            above, dh[k] = dz[:num_inputs], dz[num_inputs:]
        dx[t] = above
    return pulled, dx


# The arguments of both


def make_weights(inputs, sizes, seed=0):
    """Weights of which none is zero."""
    rng = np.random.default_rng(seed)
    layers = []
    for units in sizes:
        w = rng.normal(size=(4 * units, inputs + units)) / np.sqrt(inputs + units)
        layers.append({"w": w, "b": rng.normal(size=4 * units)})
        inputs = units
    output = {"w": rng.normal(size=sizes[-1]), "b": np.asarray(0.3)}
    return as_floats({"layers": layers, "output": output})


def make_state(sizes, n, seed=1):
    """`(hidden, cells)`, as after some steps."""
    rng = np.random.default_rng(seed)
    hidden = tuple(rng.uniform(-1, 1, (h, n)) for h in sizes)
    cells = tuple(rng.normal(size=(h, n)) for h in sizes)
    return as_floats((hidden, cells))


def make_window(inputs, sizes, steps, n):
    rng = np.random.default_rng(2)
    x = as_floats(rng.normal(size=(steps, inputs, n)))
    dy = as_floats(rng.normal(size=(steps, n)))
    return make_weights(inputs, sizes), x, dy, *make_state(sizes, n)


def as_floats(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def exactly(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def error(got, want):
    """The norm of the error of all leaves together, relative to the norm of the leaves."""
    got, want = as_vector(got), as_vector(want)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def as_vector(tree):
    leaves = jax.tree.leaves(exactly(tree))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def stepped(*arguments):
    """`(y_t, hidden, cells)` of the C++ and of NumPy."""
    return native.lstm_step(None, *arguments), numpy_step(*exactly(arguments))[0]


def test_the_loops_are_built_where_there_is_a_compiler():
    """Without this test everything else would still pass, several times as slowly."""
    compilers = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    assert native.available() or not compilers, (
        f"there is {compilers}: install the package again and read its messages"
    )


# A step


@built
@pytest.mark.parametrize(("inputs", "sizes"), NETWORKS)
def test_step(lanes, inputs, sizes):
    weights = make_weights(inputs, sizes)
    for n in NUM_COORDINATES:
        x_t = as_floats(np.random.default_rng(n).normal(size=(inputs, n)))
        assert error(*stepped(weights, x_t, *make_state(sizes, n))) < 1e-6, n


@built
@pytest.mark.parametrize("problems", [1, 2, 3, 70])
def test_step_of_several_problems(lanes, problems):
    """Blocks of coordinates begin in one problem and end in another."""
    n, sizes = 31, (5, 3)
    weights = make_weights(2, sizes)
    x = as_floats(np.random.default_rng(0).normal(size=(problems, 2, n)))
    states = [make_state(sizes, n, seed) for seed in range(problems)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *states)
    got = native.lstm_step(problems, weights, x, *stacked)
    for k, state in enumerate(states):
        want, _ = numpy_step(*exactly((weights, x[k], *state)))
        of_problem = jax.tree.map(lambda x, k=k: x[k], got)
        assert error(of_problem, want) < 1e-6


@built
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("bias", [0.0, -5.0, -20.0, 20.0])
def test_step_with_gates_wide_open_and_shut(lanes, scale, bias):
    """A gate that is shut to 1e-9 is right to its last digits too."""
    weights = make_weights(1, (20, 20))
    for layer in weights["layers"]:
        layer["b"] += bias
    x_t = as_floats(scale * np.random.default_rng(0).normal(size=(1, 200)))
    # The input of a gate is rounded, which shifts a shut gate: an ulp of 20 is 2e-6.
    tolerance = 2e-6 if bias > -10 else 1e-5
    assert max(map(error, *stepped(weights, x_t, *make_state((20, 20), 200)))) < tolerance


@built
def test_step_changes_no_argument_and_one_array_may_be_two(lanes):
    weights = jax.tree.map(jnp.asarray, make_weights(1, (5,)))
    hidden, cells = jax.tree.map(jnp.asarray, make_state((5,), 100))
    x_t = jnp.ones((1, 100))
    before = jax.tree.map(np.array, (weights, x_t, hidden, cells))
    native.lstm_step(None, weights, x_t, hidden, cells)
    jax.tree.map(np.testing.assert_array_equal, (weights, x_t, hidden, cells), before)
    assert error(*stepped(weights, x_t, hidden, hidden)) < 1e-6


@built
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_with_its_coordinate(lanes, bad):
    weights, state = make_weights(2, (5, 3)), make_state((5, 3), 130)
    where = [0, 17, 64, 129]
    x_t = as_floats(np.random.default_rng(0).normal(size=(2, 130)))
    poisoned = x_t.copy()
    poisoned[0, where] = bad
    got, want = stepped(weights, poisoned, *state)
    clean = native.lstm_step(None, weights, x_t, *state)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, want)
    # Every other coordinate is as it is without them.
    others = functools.partial(jax.tree.map, lambda x: np.delete(x, where, -1))
    jax.tree.map(np.testing.assert_array_equal, others(got), others(clean))


# The derivative of a window

WINDOWS = [
    (2, (20, 20), 20, 2500),
    (1, (20, 20), 1, 1000),
    (1, (1,), 37, 65),
    (2, (3,), 2, 33),
    (1, (33,), 20, 64),
    (1, (5, 3), 20, 127),
    (2, (3, 20, 5), 37, 31),
    (1, (1, 33, 1), 2, 63),
    (2, (5, 3), 1, 1),
    (1, (3, 5), 20, 2),
]


@built
@pytest.mark.parametrize(("inputs", "sizes", "steps", "n"), WINDOWS)
def test_pull_back(lanes, inputs, sizes, steps, n):
    window = make_window(inputs, sizes, steps, n)
    got = native.lstm_pull_back(*window)
    want, _ = numpy_pull_back(*exactly(window))
    assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, want)
    assert error(got, want) < 1e-6
    # The terms of a single leaf's sums may cancel.
    assert max(map(error, jax.tree.leaves(got), jax.tree.leaves(want))) < 1e-5


@built
@pytest.mark.parametrize(
    ("inputs", "sizes", "steps", "n"),
    [(20, (20, 20), 5, 65), (3, (5,), 2, 2500), (1, (3, 2), 20, 1)],
)
def test_pull_back_to_the_inputs_and_through_tanh(lanes, inputs, sizes, steps, n):
    window = make_window(inputs, sizes, steps, n)
    for tanh in (False, True):
        want, dx = numpy_pull_back(*exactly(window), tanh)
        got, got_dx = native.lstm_pull_back(*window, tanh=tanh, with_input=True)
        assert got_dx.shape == dx.shape
        assert max(error(got, want), error(got_dx, dx)) < 2e-6
        jax.tree.map(np.testing.assert_array_equal, native.lstm_pull_back(*window, tanh=tanh), got)


@built
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e8])
@pytest.mark.parametrize("bias", [0.0, -5.0, 20.0])
def test_pull_back_with_gates_wide_open_and_shut(lanes, scale, bias):
    """A large gradient multiplies the derivative of a saturated gate, which must be zero."""
    weights, x, dy, *state = make_window(1, (20, 20), 20, 100)
    for layer in weights["layers"]:
        layer["b"] += bias
    window = weights, as_floats(scale * x), dy, *state
    want, _ = numpy_pull_back(*exactly(window))
    assert error(native.lstm_pull_back(*window), want) < 2e-6


@built
@pytest.mark.parametrize(("argument", "bad"), [(1, np.nan), (1, np.inf), (2, np.nan), (2, np.inf)])
def test_pull_back_of_what_is_not_finite(lanes, argument, bad):
    """Sums are not finite exactly where NumPy's are not, and dx of other coordinates is finite."""
    window = list(make_window(1, (5, 3), 4, 33))
    window[argument][2, ..., 32] = bad
    with np.errstate(invalid="ignore"):
        want = numpy_pull_back(*exactly(window))
    got = native.lstm_pull_back(*window, with_input=True)
    finite = functools.partial(jax.tree.map, np.isfinite)
    jax.tree.map(np.testing.assert_array_equal, finite(got), finite(want))


@built
def test_pull_back_is_the_same_each_time_and_for_any_number_of_threads(lanes, monkeypatch):
    window = make_window(1, (20, 20), 5, 2500)
    want = native.lstm_pull_back(*window)
    for workers in (1, 1, 2, 3, 32, 32):
        monkeypatch.setattr(native, "_workers", lambda workers=workers: workers)
        jax.tree.map(np.testing.assert_array_equal, native.lstm_pull_back(*window), want)


@built
def test_a_program_for_narrower_registers_fails_before_it_writes_past_its_room():
    limit = native._library().learned_opt_limit_lanes
    window = make_window(1, (3,), 2, 100)
    if limit(16) != 16:
        pytest.skip("this machine has no registers of 16 floats")
    try:
        limit(8)
        program = jax.jit(native.lstm_pull_back).lower(*window).compile()
        program(*window)
        limit(16)
        with pytest.raises(Exception, match="made for a processor with narrower registers"):
            program(*window)
    finally:
        limit(16)


# Threads


@built
def test_calls_from_many_threads():
    """Each gets its own result, and none waits for ever for the helpers of another."""
    step = jax.jit(lambda *a: native.lstm_step(None, *a))
    pull_back = jax.jit(lambda *a: native.lstm_pull_back(*a))
    weights, x, dy, *_ = make_window(1, (20, 20), 5, 2500)
    states = [make_state((20, 20), 2500, seed) for seed in range(6)]
    calls = [functools.partial(pull_back, weights, x, dy, *state) for state in states[::2]]
    calls += [functools.partial(step, weights, x[0], *state) for state in states[1::2]]
    want = [call() for call in calls]
    got = [[] for _ in calls]

    def work(call, results):
        for _ in range(8):
            results.append(jax.block_until_ready(call()))

    threads = [
        threading.Thread(target=work, args=arguments, daemon=True)
        for arguments in zip(calls, got, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for results, expected in zip(got, want, strict=True):
        assert len(results) == 8
        for result in results:
            jax.tree.map(np.testing.assert_array_equal, result, expected)


# The library: what it refuses, and who leaves it out


NO_MEMORY = """
import resource
import jax
import jax.numpy as jnp
from learned_opt import native

assert native.available()
units = 2000
weights = {
    "layers": [{"w": jnp.zeros((4 * units, units + 1)), "b": jnp.zeros(4 * units)}],
    "output": {"w": jnp.zeros(units), "b": jnp.zeros(())},
}
arguments = weights, jnp.ones((1, 1)), (jnp.ones((units, 1)),), (jnp.ones((units, 1)),)
step = jax.jit(lambda *args: native.lstm_step(None, *args)).lower(*arguments).compile()
pages = int(open("/proc/self/statm").read().split()[0])
unlimited = resource.getrlimit(resource.RLIMIT_AS)
limit = pages * resource.getpagesize() + 2**25
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
try:
    jax.block_until_ready(step(*arguments))
except jax.errors.JaxRuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, unlimited)
print(step(*arguments)[1][0].shape)
"""


@built
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_call_without_memory_is_an_error_of_jax_and_not_a_crash():
    """The packed weights take 64 MB, and the process may take 32 MB more."""
    done = subprocess.run([sys.executable, "-c", NO_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, shape = done.stdout.splitlines()
    assert "RESOURCE_EXHAUSTED" in error
    assert "the C++ loops found no memory" in error
    assert shape == "(2000, 1)"  # With memory the same program runs.


@built
@pytest.mark.parametrize("rest", [0, 1, 2])
def test_a_call_with_other_arguments_is_an_error_of_jax(rest):
    """As from a program that was exported by another version."""
    x = jnp.ones((1, 8))
    arguments = [x] * (3 + rest)
    call = jax.ffi.ffi_call(native._STEP, [jax.ShapeDtypeStruct((8,), jnp.float32)])
    with pytest.raises(jax.errors.JaxRuntimeError, match="other arguments than the library's"):
        jax.block_until_ready(call(*arguments, problems=np.int64(1)))


@built
def test_the_library_says_how_many_threads_share_a_call(monkeypatch):
    most = native._library().learned_opt_max_workers()
    for cores, workers in [(None, 1), (1, 1), (most, most), (1000, most)]:
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert native._workers() == workers


@built
def test_a_library_built_from_other_sources_is_left_out(monkeypatch):
    monkeypatch.setattr(native, "INTERFACE", -1)
    with pytest.warns(UserWarning, match="other sources.* install the package again"):
        assert native._library.__wrapped__() is None


@built
def test_a_library_that_xla_refuses_is_left_out(monkeypatch):
    """As one that was built against a newer jaxlib."""

    def refuse(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: API version (0.9) is incompatible.")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    with pytest.warns(UserWarning, match="is incompatible. To build them anew"):
        assert native._library.__wrapped__() is None


def test_no_library_is_no_error(monkeypatch, recwarn):
    monkeypatch.setattr(native, "__file__", os.path.join("nowhere", "__init__.py"))
    assert native._library.__wrapped__() is None
    assert not recwarn


@built
def test_the_environment_leaves_the_library_out(monkeypatch, recwarn):
    for value, is_left_out in [("0", True), ("1", False), ("", False)]:
        monkeypatch.setenv("LEARNED_OPT_NATIVE", value)
        assert (native._library.__wrapped__() is None) == is_left_out
    monkeypatch.setenv("LEARNED_OPT_NATIVE", "off")
    with pytest.raises(ValueError, match="LEARNED_OPT_NATIVE must be 0 or 1, got 'off'"):
        native._library.__wrapped__()
    assert not recwarn


def test_where_a_program_runs(monkeypatch):
    """On a host with a GPU, as far as JAX's settings tell of one."""
    cpu = jax.devices("cpu")[0]
    assert native.runs_on_cpu()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not native.runs_on_cpu()
    for device in (cpu, "cpu"):
        with jax.default_device(device):
            assert native.runs_on_cpu()
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with jax.default_device("gpu"):
        assert not native.runs_on_cpu()


@pytest.mark.usefixtures("native_loops")
def test_programs_of_an_accelerator_do_not_count_on_the_loops(monkeypatch):
    x = jnp.ones(3)
    assert native.usable(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not native.usable(x)
    with jax.default_device(jax.devices("cpu")[0]):
        assert native.usable(x)


@pytest.mark.usefixtures("native_loops")
def test_xla_loops_leave_the_library_out():
    """A function is traced once inside the context and once outside, and gives the same numbers."""
    traces = []

    @jax.jit
    def step(*arguments):
        traces.append(native.usable(arguments))
        return network.step(*arguments)

    arguments = make_weights(2, (5, 3)), jnp.ones((2, 40)), *make_state((5, 3), 40)
    want, _ = numpy_step(*exactly(arguments))
    for _ in range(2):
        assert error(step(*arguments), want) < 1e-6
        with native.xla_loops():
            assert error(step(*arguments), want) < 1e-6
    assert traces == [True, False]
    assert native._STEP in step.lower(*arguments).as_text()
    with native.xla_loops():
        assert native._STEP not in step.lower(*arguments).as_text()


@pytest.mark.usefixtures("native_loops")
def test_a_step_with_shipped_weights_is_exported():
    pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")
    tx = learned_opt.pretrained("rnnprop-mnist")
    theta = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}
    state, treedef = jax.tree.flatten(tx.init(theta))  # jax.export does not know the state's type.

    @jax.jit
    def step(theta, state):
        updates, new_state = tx.update(theta, treedef.unflatten(state))
        return updates, jax.tree.leaves(new_state)

    with native.xla_loops():
        exported = jax.export.export(step)(theta, state)
        want = step(theta, state)
    got = jax.export.deserialize(exported.serialize()).call(theta, state)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), got, want)
    assert all(float(jnp.abs(update).max()) > 0 for update in jax.tree.leaves(got[0]))
    assert exported.platforms == ("cpu",)
    with pytest.raises(ValueError, match=native._STEP):
        jax.export.export(step)(theta, state)
