"""The yardstick: a learned optimizer as a competent user writes it today, with Flax and plain autodiff.

Two `nn.OptimizedLSTMCell`s and an `nn.Dense(1)` read gradients `[n, 1]` (or `[n, 2]`, preprocessed as in appendix A of
Andrychowicz et al. 2016): all parameters become one vector and its coordinates are the batch. The optimizee is unrolled
with `lax.scan`, its gradients are held constant with `stop_gradient`, and `jax.grad` runs through the scan. Optimizee,
preprocessing and minibatches are those of `learned_opt`, so that the work is the same, and so are the results: it is
an independent oracle as well.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizers import preprocess

GATES = ("i", "f", "g", "o")  # Flax's names, in the order in which learned_opt stacks its gates


class Network(nn.Module):
    """The optimizer network: `(carry, x [n, inputs])` to `(carry, output [n])`; see `zero_carry`."""

    hidden_sizes: tuple[int, ...] = (20, 20)

    @nn.compact
    def __call__(self, carry, x):
        """One step for all coordinates."""
        new = []
        for i, (size, own) in enumerate(zip(self.hidden_sizes, carry, strict=True)):
            own, x = nn.OptimizedLSTMCell(size, name=f"lstm_{i}")(own, x)
            new.append(own)
        return tuple(new), nn.Dense(1, name="output")(x)[:, 0]


class Naive(NamedTuple):
    """An optimizer written by hand: its sizes and constants; the weights are a separate pytree, as Flax makes them."""

    hidden_sizes: tuple = (20, 20)
    preprocess_p: float | None = None
    output_scale: float = 1.0


def like(opt):
    """The `Naive` of the same architecture as a `learned_opt.lstm`."""
    args = opt.spec["args"]
    return Naive(tuple(args["hidden_sizes"]), args["preprocess_p"], args["output_scale"])


def init(naive, key):
    """Fresh weights, by Flax's initializers."""
    num_inputs = 1 if naive.preprocess_p is None else 2
    network = Network(naive.hidden_sizes)
    return network.init(key, zero_carry(naive, 1), jnp.zeros((1, num_inputs)))["params"]


def zero_carry(naive, num_coordinates):
    """The state in which every coordinate begins: for each layer a pair (c, h), each `[n, units]`."""
    return tuple(
        (jnp.zeros((num_coordinates, size)), jnp.zeros((num_coordinates, size)))
        for size in naive.hidden_sizes
    )


def transform(naive, weights):
    """The optimizer as an optax transformation of any tree of float32 parameters."""
    network = Network(naive.hidden_sizes)

    def init_fn(params):
        return zero_carry(naive, sum(x.size for x in jax.tree.leaves(params)))

    def update_fn(gradient, carry, params=None):
        del params
        flat, unflatten = jax.flatten_util.ravel_pytree(gradient)
        carry, out = network.apply({"params": weights}, carry, _features(naive, flat))
        return unflatten(naive.output_scale * out), carry

    return optax.GradientTransformation(init_fn, update_fn)


def rnnprop(opt, phi):
    """A `learned_opt.rnnprop` with weights `phi`, as an optax transformation of any tree of float32 parameters."""
    args = opt.spec["args"]
    beta_1, beta_2 = args["betas"]
    naive, weights = Naive(tuple(args["hidden_sizes"])), from_learned(phi)
    network, dense = Network(naive.hidden_sizes), nn.Dense(args["input_size"])

    def init_fn(params):
        n = sum(x.size for x in jax.tree.leaves(params))
        return jnp.zeros((), jnp.int32), jnp.zeros(n), jnp.zeros(n), zero_carry(naive, n)

    def update_fn(gradient, state, params=None):
        del params
        g, unflatten = jax.flatten_util.ravel_pytree(gradient)
        t, m, v, carry = state
        t, m, v = t + 1, beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        root = jnp.sqrt(v / (1 - beta_2**t)) + args["epsilon"]
        x = jnp.stack([m / (1 - beta_1**t) / root, g / root], axis=-1)
        x = nn.elu(
            dense.apply({"params": {"kernel": phi["input"]["w"].T, "bias": phi["input"]["b"]}}, x)
        )
        carry, out = network.apply({"params": weights}, carry, x)
        return unflatten(args["output_scale"] * jnp.tanh(out)), (t, m, v, carry)

    return optax.GradientTransformation(init_fn, update_fn)


class Lives(NamedTuple):
    """An optimizee between two windows, or several of them, stacked."""

    problem: optimizee_base.Problem
    t: jax.Array
    theta: Any
    carry: Any


def live(naive, weights, problem, life, num_steps):
    """`num_steps` steps of one optimizee: `(losses f(theta_t) after each step, the next Lives)`."""
    tx = transform(naive, weights)

    def loss_fn(theta, t):
        return problem.loss(
            theta, life.problem.instance, optimizee_base.minibatch_key(life.problem.key, t)
        )

    def step(state, t):
        theta, carry = state
        loss, gradient = jax.value_and_grad(loss_fn)(theta, t)
        updates, carry = tx.update(jax.lax.stop_gradient(gradient), carry)
        return (optax.apply_updates(theta, updates), carry), loss

    end = life.t + num_steps
    (theta, carry), losses = jax.lax.scan(
        step, (life.theta, life.carry), life.t + jnp.arange(num_steps)
    )
    return jnp.append(losses[1:], loss_fn(theta, end)), Lives(life.problem, end, theta, carry)


def meta_loss(naive, weights, problem, key, num_steps):
    """sum over t = 1 .. num_steps of f(theta_t), on the problem that `learned_opt.unroll` draws from `key`."""
    losses, _ = live(naive, weights, problem, _born(naive, problem, key), num_steps)
    return jnp.sum(losses)


def meta_gradient(naive, weights, problem, key, num_steps):
    """`(meta-loss, gradient like weights)`, by reverse mode through the whole unroll."""
    return jax.value_and_grad(lambda weights: meta_loss(naive, weights, problem, key, num_steps))(
        weights
    )


def begin(opt, phi, problem, keys):
    """Fresh problems for `window`, one for each of `keys`."""
    del phi
    return jax.vmap(lambda key: _born(like(opt), problem, key))(keys)


def window(opt, phi, problem, lives, weights):
    """One window of several optimizees and its meta-gradient, as `learned_opt.meta.gradient.Windows` asks for it."""

    def mean_loss(flax_weights):
        losses, after = jax.vmap(
            lambda life: live(like(opt), flax_weights, problem, life, weights.shape[0])
        )(lives)
        return jnp.mean(losses @ weights), (losses.T, after)

    gradient, (losses, lives) = jax.grad(mean_loss, has_aux=True)(from_learned(phi))
    return losses, gradient_to_learned(phi, gradient), lives


def _born(naive, problem, key):
    begun = optimizee_base.begin(problem, key)
    return Lives(
        begun, jnp.zeros((), jnp.int32), begun.theta_0, transform(naive, None).init(begun.theta_0)
    )


def from_learned(phi):
    """The weights of a `learned_opt.lstm` in Flax's layout; linear, so that its transpose brings gradients back."""
    layers = {f"lstm_{i}": _cell(layer) for i, layer in enumerate(phi["layers"])}
    return {
        **layers,
        "output": {"kernel": phi["output"]["w"][:, None], "bias": phi["output"]["b"][None]},
    }


def gradient_to_learned(phi, gradient):
    """A gradient with respect to Flax's weights as a pytree like `phi`."""
    return jax.vjp(from_learned, phi)[1](gradient)[0]


def _features(naive, gradient):
    if naive.preprocess_p is None:
        return gradient[:, None]
    return jnp.moveaxis(preprocess.log_and_sign(gradient, naive.preprocess_p), 0, -1)


def _cell(layer):
    """`{"w": [4 * units, inputs + units], "b": [4 * units]}` in Flax's layout: one Dense for each gate and source."""
    num_units = layer["b"].shape[0] // 4
    num_inputs = layer["w"].shape[1] - num_units
    params = {}
    for gate, w, b in zip(GATES, jnp.split(layer["w"], 4), jnp.split(layer["b"], 4), strict=True):
        params[f"i{gate}"] = {"kernel": w[:, :num_inputs].T}
        params[f"h{gate}"] = {"kernel": w[:, num_inputs:].T, "bias": b}
    return params
