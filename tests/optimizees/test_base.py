"""Families, problems and their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt.optimizees import base

KEY = jax.random.key(0)


def sample(key):
    return jax.random.normal(key)


def init(key, instance):
    return jax.random.normal(key, (3,)) + instance


def loss(theta, instance, key):
    return jnp.sum(jnp.square(theta - instance)) + jax.random.normal(key)


def counting_loss(theta, instance, key, count):
    return loss(theta, instance, key), count + 1


def counting(key, instance):
    del key, instance
    return jnp.zeros(())


PLAIN = learned_opt.Optimizee(sample, init, loss)
COUNTING = learned_opt.Optimizee(sample, init, counting_loss, counting)


def test_functions_become_a_family_of_one_form():
    family = base.as_family(PLAIN)
    assert base.as_family(family) is family
    assert family.held_out is None
    begun = base.begin(family, KEY)
    assert begun.statistics == ()
    value, statistics = family.loss(begun.theta_0, begun.instance, KEY, ())
    np.testing.assert_array_equal(value, loss(begun.theta_0, begun.instance, KEY))
    assert statistics == ()


def test_equal_functions_are_equal_families():
    first, second = base.as_family(PLAIN), base.as_family(learned_opt.Optimizee(sample, init, loss))
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_the_draws_of_a_problem():
    begun = base.begin(base.as_family(PLAIN), KEY)
    sample_key, init_key, step_key = jax.random.split(KEY, 3)
    np.testing.assert_array_equal(begun.instance, sample(sample_key))
    np.testing.assert_array_equal(begun.theta_0, init(init_key, begun.instance))
    assert begun.key == step_key


def test_statistics_go_from_step_to_step():
    family = base.as_family(COUNTING)
    begun = base.begin(family, KEY)
    value, gradient, after = base.value_and_grad_at(family, begun, begun.theta_0, 5, jnp.ones(()))
    key = jax.random.fold_in(begun.key, 5)
    np.testing.assert_allclose(value, loss(begun.theta_0, begun.instance, key), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (begun.theta_0 - begun.instance), rtol=1e-6)
    assert float(after) == 2


def test_several_problems_are_each_its_own():
    family = base.as_family(COUNTING)
    keys = base.problem_keys(KEY, 2)
    several = base.begin_all(family, keys)
    for i in range(2):
        alone = base.begin(family, keys[i])
        np.testing.assert_allclose(several.theta_0[i], alone.theta_0, rtol=1e-6)
        assert several.key[i] == alone.key
    assert base.problem_keys(KEY, 1)[0] == KEY


def held_out(theta, instance, key):
    del instance, key
    return jnp.sum(theta)


def relative(target, first):
    return target / first


def test_terms_of_a_meta_loss():
    family = base.as_family(PLAIN._replace(held_out=held_out))
    begun = base.begin(family, KEY)
    theta, value, first = jnp.arange(3.0), jnp.array(7.0), jnp.array(2.0)
    arguments = (begun, theta, 0, (), value)
    assert float(base.term_at(family, *arguments, first)) == 7
    bound = family._replace(target=family.held_out)
    assert float(base.target_at(bound, *arguments)) == 3
    shaped = bound._replace(shape=base.as_partial(relative))
    assert float(base.term_at(shaped, *arguments, first)) == 1.5


def vector_loss(theta, instance, key):
    del instance, key
    return theta


def growing_loss(theta, instance, key, count):
    return loss(theta, instance, key), jnp.append(count, 0)


def forgetful_loss(theta, instance, key, count):
    del count
    return loss(theta, instance, key)


def whole_numbers(key, instance):
    del key, instance
    return jnp.arange(3)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (PLAIN._replace(loss=vector_loss), r"problem.loss must return one .* got float32\[3\]"),
        (PLAIN._replace(init=whole_numbers), "theta_0 must be real floating-point arrays"),
        (COUNTING._replace(loss=forgetful_loss), "statistics must return"),
        (COUNTING._replace(loss=growing_loss), "statistics after a step .* have shape"),
        (PLAIN._replace(held_out=vector_loss), "problem.held_out must return one real"),
        (PLAIN._replace(statistics=3), "statistics must be a function or None, got 3"),
        (PLAIN._replace(loss=None), "got Optimizee with loss=None"),
        (3, "problem must be an Optimizee"),
    ],
)
def test_bad_families(problem, message):
    with pytest.raises(ValueError, match=message):
        base.begin(base.as_family(problem), KEY)
