import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.evaluation import cost
from learned_opt.meta import programs


@pytest.fixture
def empty():
    """A cache without programs, before and after."""
    programs.clear()
    yield
    programs.clear()


@dataclasses.dataclass(frozen=True)
class Power:
    exponent: int


def counted(traces):
    """A program that notes each of its compilations."""

    @functools.partial(programs.jit, static_argnums=(1,))
    def power(x, static, y):
        traces.append(static)
        return x**static.exponent + y["a"]

    return power


def test_a_program_is_compiled_once_for_equal_static_arguments_and_equal_shapes(empty):
    traces = []
    power = counted(traces)
    for x in (2.0, 3.0):
        got = power(jnp.float32(x), Power(2), {"a": jnp.arange(3.0)})
        np.testing.assert_allclose(got, x**2 + np.arange(3))
    assert traces == [Power(2)]
    power(jnp.float32(2), Power(3), {"a": jnp.arange(3.0)})
    power(jnp.float32(2), Power(2), {"a": jnp.arange(4.0)})
    power(jnp.float32(2), Power(2), {"a": jnp.arange(3)})
    assert traces == [Power(2), Power(3), Power(2), Power(2)]
    assert programs.count() == 4


def test_what_was_used_least_recently_is_dropped(empty, monkeypatch):
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 2)
    traces = []
    power = counted(traces)
    for exponent in (1, 2, 1, 3, 1, 2):  # 2 is dropped for 3, and 3 for 2
        power(jnp.float32(2), Power(exponent), {"a": jnp.float32(0)})
    assert [static.exponent for static in traces] == [1, 2, 3, 2]
    assert programs.count() == 2


def test_a_program_can_be_transformed_lowered_and_called_by_itself(empty):
    power = counted([])
    y = {"a": jnp.float32(1)}
    assert jax.grad(power)(jnp.float32(2), Power(3), y) == 12
    np.testing.assert_allclose(
        jax.vmap(power, in_axes=(0, None, None))(jnp.arange(3.0), Power(2), y), [1, 2, 5]
    )
    program = power.program(jnp.float32(2), Power(3), y)
    assert program(jnp.float32(2), y) == 9
    assert "jit_power" in program.lower(jnp.float32(2), y).as_text()


def test_donated_memory_is_used_again(empty):
    @functools.partial(programs.jit, static_argnums=(0,), donate_argnums=(2,))
    def add(static, x, state):
        return x + state * static

    x, state = jnp.ones(3), jnp.ones(3)
    np.testing.assert_array_equal(add(2, x, state), [3, 3, 3])
    assert state.is_deleted()
    assert not x.is_deleted()


def test_other_weights_are_arguments_of_the_same_programs(empty):
    """In `evaluate`, in `unroll`, and in the timing of `compare`."""
    traced = []

    def transform(phi):
        if isinstance(phi, jax.core.Tracer):
            traced.append(phi)
        return optax.sgd(phi)

    opt = learned_opt.LearnedOptimizer(
        lambda key: jnp.float32(0.01), transform, coordinatewise=True, spec=None
    )
    problem = learned_opt.optimizees.quadratic(2)
    key = jax.random.key(0)

    def measured(rate):
        pair = opt, jnp.float32(rate)
        theta = learned_opt.unroll(pair, problem, key, 3).theta
        losses = learned_opt.evaluate(pair, problem, key, 3, 2)
        costs = cost.measure({"x": pair}, problem, key, num_rounds=1)
        return theta, losses, costs["x"].update

    measured(0.01)
    num_programs, num_traces = programs.count(), len(traced)
    theta, losses, seconds = measured(0.02)
    assert (programs.count(), len(traced)) == (num_programs, num_traces)
    assert seconds > 0
    expected = learned_opt.unroll(optax.sgd(0.02), problem, key, 3).theta
    np.testing.assert_allclose(theta, expected, rtol=1e-6)
    expected = learned_opt.evaluate(optax.sgd(0.02), problem, key, 3, 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


GROWTH = """
import json
import jax, optax
import learned_opt
from learned_opt.meta import programs

PAGE = 4096
compiled = []

def listen(name, seconds, **_):
    if "backend_compile" in name:
        compiled.append(name)

jax.monitoring.register_event_duration_secs_listener(listen)

def resources():
    with open("/proc/self/maps") as maps, open("/proc/self/statm") as pages:
        return len(maps.readlines()), int(pages.read().split()[1]) * PAGE / 2**20

def evaluate(tx):
    learned_opt.evaluate(tx, problem, key, 4, 2).block_until_ready()

problem, key = learned_opt.optimizees.quadratic(2), jax.random.key(0)
phi = learned_opt.lstm(hidden_sizes=(3,)).init(key)

def pair(i):
    return learned_opt.lstm(hidden_sizes=(3,)), jax.tree.map(lambda x: x * (1 + i / 1000), phi)

for i in range(5):
    evaluate(pair(i))
report = {"maps": [resources()[0]], "megabytes": [resources()[1]], "compiled": [len(compiled)]}
for i in range(500):
    evaluate(pair(i))
report["compiled"].append(len(compiled))
report["maps"].append(resources()[0])
report["megabytes"].append(resources()[1])

programs.MAX_PROGRAMS = 8
for i in range(48):
    evaluate(optax.sgd(0.01 + i / 1000))
    if i == 15:
        report["maps_of_closures"] = [resources()[0]]
report["maps_of_closures"].append(resources()[0])
report["kept"] = programs.count()
print(json.dumps(report))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="memory maps as Linux shows them")
def test_a_process_that_measures_many_optimizers_does_not_grow():
    """Five hundred phi are one program; of transformations that differ, the newest are kept."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    before, after = report["compiled"]
    assert after == before > 0
    before, after = report["maps"]
    assert after - before < 10  # a program takes 40
    before, after = report["megabytes"]
    assert after - before < 20  # five hundred programs took 1,000
    before, after = report["maps_of_closures"]
    assert after - before < 100  # 32 programs more would take 1,300
    assert report["kept"] == 8
