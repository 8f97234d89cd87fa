"""Learning the numbers of a method: against numbers that are known to be the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import optimizees

KEY = jax.random.key(0)


def valleys():
    """(theta_1^2 + 4 theta_2^2) / 2, from a random point."""
    return learned_opt.Optimizee(
        lambda key: jax.random.normal(key, (2,)),
        lambda key, begin: begin,
        lambda theta, begin, key: jnp.sum(jnp.array([1.0, 4.0]) * theta**2) / 2,
    )


def two_steps(rates, begin):
    theta = begin
    for t in range(2):
        theta = theta - rates[t] * jnp.array([1.0, 4.0]) * theta
    return theta


def learned(method, numbers, family=None, **others):
    settings = {"num_updates": 600, "num_problems": 64, "learning_rate": 0.03, **others}
    family = valleys() if family is None else family
    return learned_opt.learn_method(method, numbers, family, KEY, progress_bar=False, **settings)


def test_rates_of_two_steps_are_those_that_end_at_the_minimum():
    """Two steps of 1 and 1/4 take away one eigenvector each."""
    rates = learned(two_steps, jnp.array([0.6, 0.3]))
    np.testing.assert_allclose(sorted(rates), [0.25, 1.0], atol=0.01)


def test_a_start_is_learned_through_the_steps_that_follow_it():
    """A step that doubles the distance to 1 leads to the minimum, 0, from 1/2 alone."""
    family = valleys()
    family = family._replace(init=lambda key, begin: jnp.zeros(2))
    start = optimizees.begin_start(family, KEY, None)

    def doubled(start, begin):
        theta = optimizees.with_start(family, start).init(KEY, begin)
        return 1 + 2 * (theta - 1)

    np.testing.assert_allclose(learned(doubled, start, family)["offset"], [0.5, 0.5], atol=0.01)


def test_with_a_floor_it_is_the_logarithm_that_is_minimized():
    """Of losses 1 and 100 apart, the geometric mean has another minimum than the mean."""
    family = learned_opt.Optimizee(
        lambda key: jax.random.bernoulli(key).astype(jnp.float32),
        lambda key, large: jnp.zeros(()),
        lambda theta, large, key: jnp.where(
            large > 0, 100 * ((theta - 1) ** 2 + 1), (theta + 1) ** 2 + 1
        ),
    )
    same = {"num_updates": 300, "num_problems": 512, "learning_rate": 0.1}
    assert learned(lambda x, _: x, jnp.zeros(()), family, **same) > 0.9
    assert abs(learned(lambda x, _: x, jnp.zeros(()), family, floor=0.0, **same)) < 0.2


def test_messages():
    with pytest.raises(ValueError, match="got int32 at rates: what is not to be learned belongs"):
        learned(two_steps, {"rates": jnp.array([1, 2])})
    with pytest.raises(ValueError, match="must be floating-point numbers or arrays, got <U3"):
        learned(two_steps, "0.1")
    with pytest.raises(ValueError, match="let the method return theta of one instance"):
        learned(lambda rates, begin: begin[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match="method must be a function of numbers and an instance"):
        learned(None, jnp.zeros(2))
    with pytest.raises(ValueError, match="num_updates must be a whole number of at least 1, got 0"):
        learned(two_steps, jnp.zeros(2), num_updates=0)
    with pytest.raises(ValueError, match="the loss of the method is nan after 50 updates"):
        learned(two_steps, jnp.array([jnp.nan, 0.0]))
    with pytest.raises(ValueError, match="lower learning_rate"):
        learned(two_steps, jnp.array([1e25, 1e25]))
