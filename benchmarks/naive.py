"""The yardstick: a learned optimizer as a competent user writes it today, in Flax with autodiff.

Two `nn.OptimizedLSTMCell`s and an `nn.Dense(1)` read gradients `[n, 1]`, or `[n, 2]` where they are
preprocessed as in appendix A of Andrychowicz et al. 2016. All parameters become one vector, and its
coordinates are the batch. The optimizee is unrolled with `lax.scan`, its gradients are held
constant with `stop_gradient`, and `jax.grad` runs through the scan.

Optimizee, preprocessing and minibatches are those of `learned_opt`. So the work is the same, and
the results are the same: this is an independent oracle as well.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from learned_opt.estimators import base as estimator_base
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem, Theta
from learned_opt.optimizers import preprocess
from learned_opt.optimizers.base import LearnedOptimizer, Phi

GATES = ("i", "f", "g", "o")  # Flax's names, in the order in which learned_opt stacks its gates

Weights = Any  # of the network, as Flax makes them
Carry = tuple  # for each layer a pair (c, h), each [n, units]


class Network(nn.Module):
    """The optimizer network: `(carry, x [n, inputs])` to `(carry, output [n])`."""

    hidden_sizes: tuple[int, ...] = (20, 20)

    @nn.compact
    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """One step for all coordinates."""
        new = []
        for i, size in enumerate(self.hidden_sizes):
            cell = nn.OptimizedLSTMCell(size, name=f"lstm_{i}")
            own, x = cell(carry[i], x)
            new.append(own)
        output = nn.Dense(1, name="output")(x)
        return tuple(new), output[:, 0]


class Naive(NamedTuple):
    """An optimizer written by hand: its sizes and constants. Its weights are a separate pytree."""

    hidden_sizes: tuple = (20, 20)
    preprocess_p: float | None = None
    output_scale: float = 1.0


def like(opt: LearnedOptimizer) -> Naive:
    """The `Naive` of the same architecture as a `learned_opt.lstm`."""
    args = opt.spec["args"]
    return Naive(tuple(args["hidden_sizes"]), args["preprocess_p"], args["output_scale"])


def init(naive: Naive, key: jax.Array) -> Weights:
    """Fresh weights, by Flax's initializers."""
    num_inputs = 1 if naive.preprocess_p is None else 2
    network = Network(naive.hidden_sizes)
    variables = network.init(key, zero_carry(naive, 1), jnp.zeros((1, num_inputs)))
    return variables["params"]


def zero_carry(naive: Naive, num_coordinates: int) -> Carry:
    """The state in which every coordinate begins."""
    layers = []
    for size in naive.hidden_sizes:
        shape = num_coordinates, size
        layers.append((jnp.zeros(shape), jnp.zeros(shape)))
    return tuple(layers)


def transform(naive: Naive, weights: Weights) -> optax.GradientTransformation:
    """The optimizer as an optax transformation of any tree of float32 parameters."""
    network = Network(naive.hidden_sizes)

    def init_fn(params: Theta) -> Carry:
        return zero_carry(naive, optax.tree.size(params))

    def update_fn(
        gradient: Theta,
        carry: Carry,
        params: Theta = None,
    ) -> tuple[Theta, Carry]:
        del params
        flat, unflatten = jax.flatten_util.ravel_pytree(gradient)
        features = _features(naive, flat)
        carry, output = network.apply({"params": weights}, carry, features)
        return unflatten(naive.output_scale * output), carry

    return optax.GradientTransformation(init_fn, update_fn)


def rnnprop(opt: LearnedOptimizer, phi: Phi) -> optax.GradientTransformation:
    """A `learned_opt.rnnprop` with weights `phi`, for any tree of float32 parameters."""
    args = opt.spec["args"]
    beta_1, beta_2 = args["betas"]
    naive = Naive(tuple(args["hidden_sizes"]))
    network = Network(naive.hidden_sizes)
    dense = nn.Dense(args["input_size"])
    weights = from_learned(phi)
    input_weights = {"kernel": phi["input"]["w"].T, "bias": phi["input"]["b"]}

    def init_fn(params: Theta) -> tuple:
        n = optax.tree.size(params)
        return jnp.zeros((), jnp.int32), jnp.zeros(n), jnp.zeros(n), zero_carry(naive, n)

    def update_fn(
        gradient: Theta,
        state: tuple,
        params: Theta = None,
    ) -> tuple[Theta, tuple]:
        del params
        g, unflatten = jax.flatten_util.ravel_pytree(gradient)
        t, m, v, carry = state
        t = t + 1
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        root = jnp.sqrt(v / (1 - beta_2**t)) + args["epsilon"]
        x = jnp.stack([m / (1 - beta_1**t) / root, g / root], axis=-1)
        x = nn.elu(dense.apply({"params": input_weights}, x))
        carry, output = network.apply({"params": weights}, carry, x)
        updates = unflatten(args["output_scale"] * jnp.tanh(output))
        return updates, (t, m, v, carry)

    return optax.GradientTransformation(init_fn, update_fn)


class Lives(NamedTuple):
    """The life of a problem between two windows; or several lives, stacked."""

    problem: Problem
    t: jax.Array
    horizon: jax.Array
    theta: Theta
    carry: Carry


def live(
    naive: Naive,
    weights: Weights,
    family: Family,
    life: Lives,
    num_steps: int,
) -> tuple[jax.Array, Lives]:
    """`num_steps` steps of one life: the losses f(theta_t) after each step, and the life then."""
    tx = transform(naive, weights)
    statistics = life.problem.statistics

    def loss_fn(theta: Theta, t: jax.Array) -> jax.Array:
        loss, _ = optimizee_base.loss_at(family, life.problem, theta, t, statistics)
        return loss

    def step(state: tuple, t: jax.Array) -> tuple[tuple, jax.Array]:
        theta, carry = state
        loss, gradient = jax.value_and_grad(loss_fn)(theta, t)
        updates, carry = tx.update(jax.lax.stop_gradient(gradient), carry)
        theta = optax.apply_updates(theta, updates)
        return (theta, carry), loss

    times = life.t + jnp.arange(num_steps)
    (theta, carry), losses = jax.lax.scan(step, (life.theta, life.carry), times)
    end = life.t + num_steps
    losses = jnp.append(losses[1:], loss_fn(theta, end))
    return losses, life._replace(t=end, theta=theta, carry=carry)


def meta_gradient(
    naive: Naive,
    weights: Weights,
    problem: Any,
    key: jax.Array,
    num_steps: int,
) -> tuple[jax.Array, Weights]:
    """The meta-loss, and its gradient like `weights`, by reverse mode through the whole unroll.

    The meta-loss is the sum over t = 1 .. num_steps of f(theta_t), on the problem that
    `learned_opt.unroll` draws from `key`.
    """
    family = optimizee_base.as_family(problem)

    def meta_loss(weights: Weights) -> jax.Array:
        life = _begun(naive, family, key, num_steps)
        losses, _ = live(naive, weights, family, life, num_steps)
        return jnp.sum(losses)

    return jax.value_and_grad(meta_loss)(weights)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """The same in the form of `learned_opt.estimators`, for a `learned_opt.lstm`.

    Attributes:
      window: steps of one window.
    """

    window: int = 20

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """See `estimators.base.Estimator`."""
        del opt, family, key
        estimator_base.check_horizon(self.window, num_steps)

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> Lives:
        """See `estimators.base.Estimator`."""
        del phi
        return _all_begun(opt, family, keys, estimator_base.count(num_steps))

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: Lives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> estimator_base.Estimate:
        """See `estimators.base.Estimator`."""
        del done
        num_problems = lives.t.shape[0]

        def fresh() -> Lives:
            return _all_begun(opt, family, jax.random.split(key, num_problems), lives.horizon[0])

        lives = estimator_base.renewed(lives.t[0] >= lives.horizon[0], fresh, lives)

        def mean_loss(flax_weights: Weights) -> tuple[jax.Array, tuple]:
            def one(life: Lives) -> tuple[jax.Array, Lives]:
                return live(like(opt), flax_weights, family, life, self.window)

            losses, after = jax.vmap(one)(lives)
            return jnp.mean(losses @ weights), (losses.T, after)

        gradient, (losses, after) = jax.grad(mean_loss, has_aux=True)(from_learned(phi))
        return estimator_base.Estimate(losses, gradient_to_learned(phi, gradient), after)

    def plain(self, family: Family, key: jax.Array) -> dict:
        """See `estimators.base.Estimator`."""
        del family, key
        return estimator_base.plain_of(self)


def _all_begun(
    opt: LearnedOptimizer,
    family: Family,
    keys: jax.Array,
    horizon: jax.Array,
) -> Lives:
    naive = like(opt)
    return jax.vmap(lambda key: _begun(naive, family, key, horizon))(keys)


def _begun(
    naive: Naive,
    family: Family,
    key: jax.Array,
    horizon: jax.Array | int,
) -> Lives:
    problem = optimizee_base.begin(family, key)
    carry = transform(naive, None).init(problem.theta_0)
    t = estimator_base.count(0)
    return Lives(problem, t, estimator_base.count(horizon), problem.theta_0, carry)


def from_learned(phi: Phi) -> Weights:
    """The weights of a `learned_opt.lstm` in Flax's layout.

    It is linear, so its transpose brings gradients back.
    """
    weights = {f"lstm_{i}": _cell(layer) for i, layer in enumerate(phi["layers"])}
    output = phi["output"]
    weights["output"] = {"kernel": output["w"][:, None], "bias": output["b"][None]}
    return weights


def gradient_to_learned(phi: Phi, gradient: Weights) -> Phi:
    """A gradient with respect to Flax's weights as a pytree like `phi`."""
    _, pull_back = jax.vjp(from_learned, phi)
    (gradient_of_phi,) = pull_back(gradient)
    return gradient_of_phi


def _features(naive: Naive, gradient: jax.Array) -> jax.Array:
    if naive.preprocess_p is None:
        return gradient[:, None]
    features = preprocess.log_and_sign(gradient, naive.preprocess_p)
    return jnp.moveaxis(features, 0, -1)


def _cell(layer: dict) -> dict:
    """One layer in Flax's layout, which has one Dense for each gate and source.

    Args:
      layer: `{"w": [4 * units, inputs + units], "b": [4 * units]}`.
    """
    num_units = layer["b"].shape[0] // 4
    num_inputs = layer["w"].shape[1] - num_units
    params = {}
    matrices = jnp.split(layer["w"], len(GATES))
    biases = jnp.split(layer["b"], len(GATES))
    for gate, w, b in zip(GATES, matrices, biases, strict=True):
        of_inputs, of_hidden = jnp.split(w, [num_inputs], axis=1)
        params[f"i{gate}"] = {"kernel": of_inputs.T}
        params[f"h{gate}"] = {"kernel": of_hidden.T, "bias": b}
    return params
