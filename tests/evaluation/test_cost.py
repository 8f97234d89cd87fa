import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
from learned_opt.evaluation import cost, timing

KEY = jax.random.key(6)


def bowl(size):
    return learned_opt.Optimizee(
        lambda key: (),
        lambda key, instance: jnp.ones(size),
        lambda theta, instance, key: jnp.sum(theta**2),
    )


def test_state_bytes():
    theta = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    opt = learned_opt.lstm()  # two layers of 20 units, each with c and h
    assert cost.state_bytes_per_parameter((opt, opt.init(KEY)), theta) == 2 * 2 * 20 * 4
    assert cost.state_bytes_per_parameter(optax.trace(0.9), theta) == 4
    assert cost.state_bytes_per_parameter(optax.adam(0.1), theta) == 8 + 4 / 17  # and the count
    assert cost.state_bytes_per_parameter(optax.sgd(0.1), {}) == 0


def test_cost_tells_a_dear_optimizer_from_a_cheap_one():
    opt = learned_opt.lstm()
    pair = opt, opt.init(KEY)
    costs = cost.measure({"lstm": pair, "sgd": optax.sgd(0.1)}, bowl(20_000), KEY, num_rounds=3)
    assert costs["lstm"].update > 3 * costs["sgd"].update
    assert costs["lstm"].step > costs["sgd"].step
    assert costs["lstm"].state_bytes_per_parameter == 320


def test_costs_are_medians(monkeypatch):
    """Of what `timing` has timed, for a step and for an update alone."""
    times = {("a", "step"): [3.0, 1.0, 8.0], ("a", "update"): [2.0, 0.5, 0.25]}
    asked = []

    def interleaved(programs, rounds):
        asked.append((set(programs), rounds))
        return times

    monkeypatch.setattr(timing, "interleaved", interleaved)
    costs = cost.measure({"a": optax.sgd(0.1)}, bowl(3), KEY, num_rounds=3)
    assert costs == {"a": cost.Cost(3.0, 0.5, 0.0)}
    assert asked == [(set(times), 3)]


def test_what_is_timed_is_a_step_of_gradient_descent(monkeypatch):
    """The step moves theta by its gradient; the update is that of a hundredth of theta."""
    results = {}

    def interleaved(programs, rounds):
        del rounds
        results.update({name: program() for name, program in programs.items()})
        return {name: [1.0] for name in programs}

    monkeypatch.setattr(timing, "interleaved", interleaved)
    cost.measure({"a": optax.sgd(0.1)}, bowl(3), KEY)
    theta, _ = results["a", "step"]
    np.testing.assert_allclose(theta, 1 - 0.1 * 2 * np.ones(3), rtol=1e-6)
    updates, _ = results["a", "update"]
    np.testing.assert_allclose(updates, -0.1 * 0.01 * np.ones(3), rtol=1e-6)


def test_what_is_timed_is_not_the_first_step(monkeypatch):
    """An optimizer may do more in the first steps of a run."""
    counts = []

    def interleaved(programs, rounds):
        del rounds
        counts.extend(int(program()[1].count) for program in programs.values())
        return {name: [1.0] for name in programs}

    monkeypatch.setattr(timing, "interleaved", interleaved)
    schedule = optax.scale_by_schedule(lambda count: 0.1 * count)
    cost.measure({"a": schedule}, bowl(3), KEY)
    assert counts == 2 * [cost.STEPS_BEFORE + 1]


def test_a_line_search_and_statistics_can_be_timed():
    problem = learned_opt.Optimizee(
        lambda key: (),
        lambda key, instance: jnp.ones(3),
        lambda theta, instance, key, n: (jnp.sum(theta**2) + 0 * n, n + 1),
        lambda key, instance: jnp.float32(0),
    )
    costs = cost.measure({"L-BFGS": optax.lbfgs()}, problem, KEY, num_rounds=1)
    assert costs["L-BFGS"].step > 0
