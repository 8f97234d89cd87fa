"""Bad input: every message names the argument, its value and what would be right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import _checks, optimizers

OPT = learned_opt.lstm(hidden_sizes=(3,))
PHI = OPT.init(jax.random.key(0))
THETA = {"a": jnp.ones(2), "b": {"w": jnp.ones((2, 3))}}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden_sizes": (20, 0)}, "hidden_sizes must be a whole number of at least 1, got 0"),
        ({"hidden_sizes": -5}, "hidden_sizes must be a whole number of at least 1, got -5"),
        ({"hidden_sizes": (2.5,)}, "hidden_sizes must be a whole number of at least 1, got 2.5"),
        ({"hidden_sizes": "20"}, "hidden_sizes must be a whole number of at least 1, got '20'"),
        ({"hidden_sizes": ()}, "hidden_sizes must name at least one layer"),
        ({"output_scale": 0}, "output_scale must be a finite number above 0, got 0"),
        ({"output_scale": float("inf")}, "output_scale must be a finite number above 0, got inf"),
        ({"input_scale": -1.0}, "input_scale must be a finite number above 0, got -1.0"),
        ({"preset": "mnist", "input_scale": 2.0}, "input_scale needs preprocess_p=None"),
        ({"output_scale": None}, "output_scale must be a finite number above 0, got None"),
        ({"output_scale": jnp.ones(2)}, "output_scale must be a finite number above 0, got Array"),
        ({"preprocess_p": -1.0}, "preprocess_p must be a finite number above 0, got -1.0"),
        ({"preprocess_p": "10"}, "preprocess_p must be a finite number above 0, got '10'"),
        (
            {"preset": "mnst"},
            "unknown preset 'mnst'. Did you mean 'mnist'. Known: 'quadratic', 'mnist'",
        ),
        ({"preset": "neural_art"}, "unknown preset 'neural_art'. Did you mean 'neural-art'"),
        ({"preset": 3}, "unknown preset 3.* Known: 'quadratic'"),
        ({"state_dtype": "int32"}, "unknown state_dtype 'int32'.*Known: 'float32', 'bfloat16'"),
        ({"state_dtype": "bfloat"}, "unknown state_dtype 'bfloat'. Did you mean 'bfloat16'"),
        ({"state_dtype": 16}, "unknown state_dtype 16"),
    ],
)
def test_lstm(kwargs, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.lstm(**kwargs)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (
            jnp.ones(2, jnp.int32),
            "params must be real floating-point arrays, got int32 at b/w; .*optax.masked",
        ),
        (
            jnp.ones(2, jnp.complex64),
            "params must be real floating-point arrays, got complex64 at b/w",
        ),
        (jnp.ones(2, bool), "params must be real floating-point arrays, got bool at b/w"),
        (3, "params must be real floating-point arrays, got int32 at b/w"),
        ("text", "params must be real floating-point arrays, got str at b/w"),
        (jax.random.key(0), r"params must be real floating-point arrays, got key<fry> at b/w"),
    ],
)
def test_params(leaf, message):
    with pytest.raises(ValueError, match=message):
        OPT.transform(PHI).init({"a": jnp.ones(2), "b": {"w": leaf}})


def test_a_single_array_of_integers():
    with pytest.raises(ValueError, match="got int32 at the only leaf"):
        OPT.transform(PHI).init(jnp.arange(3))


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ({"a": jnp.ones(2)}, "gradients lack the leaf b/w of the parameters of this state"),
        (
            {**THETA, "c": jnp.ones(1)},
            "gradients have the leaf c, which the parameters of this state lack",
        ),
        (
            {**THETA, "a": jnp.ones(3)},
            r"gradients at a have shape \(3,\), but the parameters of this state have \(2,\)",
        ),
        ({**THETA, "a": None}, "gradients lack the leaf a of"),
        (
            {**THETA, "a": jnp.ones(2, jnp.int32)},
            "gradients must be real floating-point arrays, got int32 at a",
        ),
        (jnp.ones(2), "gradients"),
    ],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_gradients(gradients, message, jitted):
    tx = OPT.transform(PHI)
    state = tx.init(THETA)
    with pytest.raises(ValueError, match=message):
        (jax.jit(tx.update) if jitted else tx.update)(gradients, state, THETA)


def test_gradients_of_integers():
    """What `jax.grad(..., allow_int=True)` gives for them."""
    tx = OPT.transform(PHI)
    with pytest.raises(
        ValueError, match=r"gradients must be real floating-point arrays, got .* at a"
    ):
        tx.update({**THETA, "a": np.zeros(2, jax.dtypes.float0)}, tx.init(THETA))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": THETA["a"]}, "params lack the leaf b/w"),
        ({**THETA, "c": jnp.ones(1)}, "params have the leaf c"),
        ({**THETA, "a": jnp.ones(3)}, r"params at a have shape \(3,\)"),
    ],
)
def test_params_that_differ_from_the_gradients(params, message):
    tx = OPT.transform(PHI)
    with pytest.raises(ValueError, match=message):
        tx.update(THETA, tx.init(THETA), params)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (
            learned_opt.lstm(hidden_sizes=(4,)).init(jax.random.key(0)),
            r"phi at layers/0/. have shape \(16,.*, but the weights of "
            r"lstm\(hidden_sizes=\[3\].* have \(12,",
        ),
        (
            learned_opt.lstm("mnist", hidden_sizes=(3,)).init(jax.random.key(0)),
            r"phi at layers/0/w have shape \(12, 5\), but the weights of lstm.* have \(12, 4\)",
        ),
        (
            learned_opt.lstm(hidden_sizes=(3, 3)).init(jax.random.key(0)),
            "phi have the leaf layers/1/., which",
        ),
        ({"layers": PHI["layers"]}, "phi lack the leaf output/. of the weights of lstm"),
        ({}, "phi lack the leaf"),
        (None, "phi lack the leaf"),
        (jnp.ones(3), "phi (lack|have) the leaf"),
    ],
)
def test_phi_of_another_architecture(phi, message):
    with pytest.raises(ValueError, match=message):
        OPT.transform(phi)


def test_phi_of_integers():
    with pytest.raises(
        ValueError, match="phi must be real floating-point arrays, got int32 at layers/0/b"
    ):
        OPT.transform(jax.tree.map(lambda x: x.astype(jnp.int32), PHI))


@pytest.mark.parametrize("value", [None, "adam", OPT, OPT.transform])
def test_from_optax(value):
    with pytest.raises(
        ValueError, match=f"tx must be an optax transformation, got {type(value).__name__}"
    ):
        learned_opt.from_optax(value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "lstn", "args": {}}, "unknown architecture 'lstn'. Did you mean 'lstm'"),
        (
            {"name": "lstm", "args": {"sizes": 3}},
            "the architecture 'lstm' takes no argument 'sizes'",
        ),
        ({"name": "lstm"}, "a spec must be"),
        ({"args": {}}, "unknown architecture None"),
        (None, "a spec must be"),
        (
            {"name": "partition", "args": {"label_fn": {"*": "a"}}},
            "optimizers must be a dict with at least one label",
        ),
        (
            {"name": "partition", "args": {"label_fn": {"*": "a"}, "optimizers": [1]}},
            "optimizers must be a dict",
        ),
        ({"name": ["lstm"], "args": {}}, "unknown architecture"),
    ],
)
def test_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        optimizers.from_spec(spec)


def test_an_optimizer_where_a_transformation_is_expected():
    problem = learned_opt.optimizees.quadratic(dim=2)
    with pytest.raises(
        ValueError,
        match=r"tx must be an optax transformation, got LearnedOptimizer: .*transform\(phi",
    ):
        learned_opt.unroll(OPT, problem, jax.random.key(0), 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": -3}, "num_steps must be a whole number of at least 1, got -3"),
        ({"num_steps": 1.5}, "num_steps must be a whole number of at least 1, got 1.5"),
        ({"key": 0}, r"key must be a random key, got 0: make one with jax.random.key\(seed\)"),
        ({"problem": "quadratic"}, "problem must be an Optimizee.* of functions, got str"),
    ],
)
def test_unroll(kwargs, message):
    problem = learned_opt.optimizees.quadratic(dim=2)
    good = {"tx": optax.sgd(0.1), "problem": problem, "key": jax.random.key(0), "num_steps": 2}
    with pytest.raises(ValueError, match=message):
        learned_opt.unroll(**{**good, **kwargs})


@pytest.mark.parametrize(
    ("value", "near"), [(3, "2, 4"), (9, "5, 10"), (60, "25, 50"), (99, "50, 100")]
)
def test_divides_names_the_nearest(value, near):
    with pytest.raises(
        ValueError,
        match=f"window must divide horizon=100, got {value}; the nearest that do: {near}",
    ):
        _checks.divides("window", value, "horizon", 100)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert _checks.positive_int("n", np.int32(3)) == 3
    assert type(_checks.positive_int("n", np.int32(3))) is int
    _checks.divides("window", 20, "horizon", 100)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "n must be a whole number of at least 2, got True"),
        (1, "n must be a whole number of at least 2, got 1"),
        (3.0, "n must be a whole number of at least 2, got 3.0"),
    ],
)
def test_positive_int(value, message):
    with pytest.raises(ValueError, match=message):
        _checks.positive_int("n", value, minimum=2)


def test_leaves_of_equal_names_are_told_apart():
    """`{"a": {"b": x}}` and `{"a/b": x}` are written alike."""
    first, second = {"a": {"b": jnp.ones(1)}}, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}
    with pytest.raises(ValueError, match="gradients have the leaf a/b, which params lack"):
        _checks.same_tree("gradients", second, "params", first, "mend it.")
    with pytest.raises(ValueError, match="gradients lack the leaf a/b of params"):
        _checks.same_tree("gradients", first, "params", second, "mend it.")


def test_a_value_is_shown_on_one_line():
    assert _checks.shown("a" * 200) == repr("a" * 200)
    assert _checks.shown(jax.random.split(jax.random.key(0), 3)) == "key<fry>[3]"
    matrix = _checks.shown(jnp.ones((9, 9)))
    assert "\n" not in matrix
    assert len(matrix) < 120
