"""One optimizer for each kind of parameter."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import learned_opt

CONV = learned_opt.lstm("mnist", hidden_sizes=(4,))
FC = learned_opt.lstm("quadratic", hidden_sizes=(3,))
OPTIMIZERS = {"conv": CONV, "fc": FC}
THETA = {
    "conv_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "dense": {"kernel": jnp.ones(3)},
}
GRADIENT = jax.tree.map(lambda x: 0.3 * x + jnp.arange(x.size).reshape(x.shape), THETA)
PATTERNS = {"conv_*": "conv", "*": "fc"}


def by_function(theta):
    return {
        k: jax.tree.map(lambda _, k=k: "conv" if k.startswith("conv") else "fc", v)
        for k, v in theta.items()
    }


def by_prefix(theta):
    return {k: "conv" if k.startswith("conv") else "fc" for k in theta}


@pytest.mark.parametrize(
    "label_fn", [by_function, by_prefix, PATTERNS], ids=["function", "prefix", "patterns"]
)
def test_equals_each_optimizer_on_its_own_parameters(label_fn):
    opt = learned_opt.partition(OPTIMIZERS, label_fn)
    phi = opt.init(jax.random.key(0))
    assert set(phi) == {"conv", "fc"}
    tx = opt.transform(phi)

    @jax.jit
    def two_steps(gradient):
        state = tx.init(THETA)
        first, state = tx.update(gradient, state, THETA)
        return first, tx.update(gradient, state, THETA)[0]

    def alone(opt, phi, key):
        tx = opt.transform(phi)
        first, state = tx.update(GRADIENT[key], tx.init(THETA[key]))
        return first, tx.update(GRADIENT[key], state)[0]

    got = two_steps(GRADIENT)
    for key, label, part in (("conv_0", "conv", CONV), ("dense", "fc", FC)):
        want = jax.jit(alone, static_argnums=(0, 2))(part, phi[label], key)
        chex.assert_trees_all_close([u[key] for u in got], list(want), rtol=1e-6)


def test_the_first_pattern_that_matches_wins():
    opt = learned_opt.partition(
        OPTIMIZERS, {"*/bias": "fc", "conv_*/*": "conv", "dense/kernel": "fc"}
    )
    assert opt.parts.label_fn(THETA) == {
        "conv_0": {"kernel": "conv", "bias": "fc"},
        "dense": {"kernel": "fc"},
    }


def test_one_label_for_all():
    opt = learned_opt.partition(OPTIMIZERS, lambda theta: "fc")
    phi = opt.init(jax.random.key(0))
    state = opt.transform(phi).init(THETA)
    # 2 * 3 numbers for each of nine coordinates, and none of the other optimizer's.
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 6 * 9


def test_nested():
    inner = learned_opt.partition(OPTIMIZERS, {"*bias": "fc", "*": "conv"})
    opt = learned_opt.partition(
        {"inner": inner, "adam": learned_opt.from_optax(optax.adam(0.5))},
        {"conv_0/*": "inner", "*": "adam"},
    )
    phi = opt.init(jax.random.key(0))
    u, _ = opt.transform(phi).update(GRADIENT, opt.transform(phi).init(THETA), THETA)
    chex.assert_trees_all_close(u["dense"]["kernel"], jnp.full(3, -0.5), rtol=1e-4)
    tx = FC.transform(phi["inner"]["fc"])
    bias, _ = tx.update(GRADIENT["conv_0"]["bias"], tx.init(THETA["conv_0"]["bias"]))
    chex.assert_trees_all_close(u["conv_0"]["bias"], bias, rtol=1e-6)


def test_weights_are_the_same_in_any_order_of_the_dict():
    swapped = learned_opt.partition(dict(reversed(OPTIMIZERS.items())), PATTERNS)
    key = jax.random.key(0)
    chex.assert_trees_all_equal(
        swapped.init(key), learned_opt.partition(OPTIMIZERS, PATTERNS).init(key)
    )


def test_is_not_coordinatewise_and_has_a_plain_spec():
    opt = learned_opt.partition(OPTIMIZERS, PATTERNS)
    assert not opt.coordinatewise
    assert opt.spec == {
        "name": "partition",
        "args": {"optimizers": {"conv": CONV.spec, "fc": FC.spec}, "label_fn": PATTERNS},
    }


@pytest.mark.parametrize(
    ("optimizers", "label_fn", "message"),
    [
        ({}, PATTERNS, r"optimizers must be a dict with at least one label, got \{\}"),
        ([CONV], PATTERNS, "optimizers must be a dict"),
        ({1: CONV}, PATTERNS, "labels must be strings, got 1"),
        (
            {"conv": optax.sgd(1.0)},
            PATTERNS,
            r"optimizers\['conv'\] must be a LearnedOptimizer.*from_optax",
        ),
        (OPTIMIZERS, {"*": "convv"}, "unknown label 'convv'. Did you mean 'conv'"),
        (OPTIMIZERS, "conv", "label_fn must be a function of the parameters or a dict"),
    ],
)
def test_bad_arguments(optimizers, label_fn, message):
    with pytest.raises(ValueError, match=message):
        learned_opt.partition(optimizers, label_fn)


@pytest.mark.parametrize(
    ("label_fn", "message"),
    [
        (lambda theta: {"conv_0": "conv", "dense": "fd"}, "unknown label 'fd'. Did you mean 'fc'"),
        ({"conv_*": "conv"}, r"no pattern matches the parameter 'dense/kernel'.*Add '\*'"),
    ],
)
def test_bad_labels_of_parameters(label_fn, message):
    opt = learned_opt.partition(OPTIMIZERS, label_fn)
    tx = opt.transform(opt.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=message):
        tx.init(THETA)


def test_phi_of_another_architecture():
    opt = learned_opt.partition(OPTIMIZERS, PATTERNS)
    phi = opt.init(jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"phi must have the weights of \['conv', 'fc'\], got \['conv'\]"
    ):
        opt.transform({"conv": phi["conv"]})
    with pytest.raises(
        ValueError, match=r"phi must have the weights of \['conv', 'fc'\], got list"
    ):
        opt.transform([phi])
    with pytest.raises(
        ValueError, match=r"phi at layers/0/. have shape .* but the weights of lstm"
    ):
        opt.transform({"conv": phi["fc"], "fc": phi["conv"]})


def test_gradients_of_another_tree():
    opt = learned_opt.partition(OPTIMIZERS, PATTERNS)
    tx = opt.transform(opt.init(jax.random.key(0)))
    state = tx.init(THETA)
    with pytest.raises(ValueError, match="gradients lack the leaf conv_0/bias"):
        tx.update({**GRADIENT, "conv_0": {"kernel": GRADIENT["conv_0"]["kernel"]}}, state, THETA)
    with pytest.raises(ValueError, match="gradients have the leaf extra"):
        tx.update({**GRADIENT, "extra": jnp.ones(1)}, state, THETA)
