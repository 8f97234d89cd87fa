"""Learned matrices and learned momentum, for short runs on problems of one shape."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt import _checks
from learned_opt.optimizers import base, tensorwise
from learned_opt.optimizers.tensorwise import TensorRule

KINDS = ("dense", "diagonal")


class PreconditionedState(NamedTuple):
    """State of `preconditioned`.

    Attributes:
      update: the last update, like the parameter.
    """

    update: jax.Array


def preconditioned(
    dim: int,
    num_steps: int = 8,
    *,
    num_matrices: int = 1,
    hidden_size: int = 16,
    kind: str = "dense",
    rate: float = 1.0,
    state_dtype: Any = None,
) -> base.LearnedOptimizer:
    """Gradient descent with learned matrices and learned momentum, for problems of one shape.

    The parameters of a problem are one array of `dim` numbers. The update of step t is

        u_t = -rate sum_k c_k P_k g_t + b_t u_{t-1},    c = a_t + V tanh(W theta + w).

    The matrices P_k, the shares a_t of step t, how shares depend on theta (V, W, w), and the
    momentum b_t are weights. What the problems of a family share of their curvature is in the
    matrices; where curvature depends on theta, several matrices are mixed. A step costs as many
    products with a matrix. After `num_steps` steps the last a and b go on. An untrained one is
    gradient descent; `learned_opt.with_mean_curvature` gives weights that are much better.

    It is trained well by the full gradient, `learned_opt.estimators.Autodiff(window=num_steps,
    stop_gradient=False)`: in so short a run a step's effect on later gradients is most of it.

    Args:
      dim: the number of coordinates of a problem.
      num_steps: for how many steps there are weights.
      num_matrices: K. With one matrix nothing is mixed, and theta is not read.
      hidden_size: how many tanh units choose the shares.
      kind: "dense", or "diagonal" for diagonal matrices.
      rate: the step of the untrained rule, such as 1 / L.
      state_dtype: see `lstm`.

    Returns:
      A `LearnedOptimizer` that is not coordinatewise. Its state has one number a parameter.

    Raises:
      ValueError: for sizes or a rate that are not positive, or an unknown kind. `update` raises it
        for a parameter of another size.

    Source:
      Gregor and LeCun 2010, Learning fast approximations of sparse coding, for learned matrices.

    Example:
      >>> import jax, jax.numpy as jnp, learned_opt
      >>> opt = learned_opt.preconditioned(3, num_steps=8, rate=0.1)
      >>> tx = opt.transform(opt.init(jax.random.key(0)))
      >>> tx.update(jnp.ones(3), tx.init(jnp.zeros(3)))[0]
      Array([-0.1, -0.1, -0.1], dtype=float32)
    """
    arguments = {
        "dim": _checks.positive_int("dim", dim),
        "num_steps": _checks.positive_int("num_steps", num_steps),
        "num_matrices": _checks.positive_int("num_matrices", num_matrices),
        "hidden_size": _checks.positive_int("hidden_size", hidden_size),
        "kind": _checks.choice("kind", kind, KINDS),
        "rate": _checks.positive_float("rate", rate),
        "state_dtype": _checks.state_dtype(state_dtype),
    }
    sizes = Sizes(*(arguments[name] for name in Sizes._fields))
    reads = frozenset({"params"}) if sizes.num_matrices > 1 else frozenset()
    rule = TensorRule(_start, base.bind(_update, sizes, arguments["rate"]), reads)
    spec = {"name": "preconditioned", "args": arguments}
    init = base.bind(_init_weights, sizes)
    return tensorwise.from_rule(rule, init, spec, arguments["state_dtype"])


class Sizes(NamedTuple):
    """What the shapes of the weights follow from; see `preconditioned`."""

    dim: int
    num_steps: int
    num_matrices: int
    hidden_size: int
    kind: str


def _init_weights(sizes: Sizes, key: jax.Array) -> dict[str, jax.Array]:
    """The identity and no momentum; further matrices are zero."""
    identity = jnp.ones(sizes.dim) if sizes.kind == "diagonal" else jnp.eye(sizes.dim)
    others = jnp.zeros((sizes.num_matrices - 1, *identity.shape))
    shares = jnp.zeros((sizes.num_steps, sizes.num_matrices)).at[:, 0].set(1.0)
    weights = {
        "matrices": jnp.concatenate([identity[None], others]),
        "shares": shares,
        "momentum": jnp.zeros(sizes.num_steps),
    }
    if sizes.num_matrices == 1:
        return weights
    w_key, v_key = jax.random.split(key)
    w = jax.random.normal(w_key, (sizes.hidden_size, sizes.dim)) / sizes.dim**0.5
    v = jax.random.normal(v_key, (sizes.num_matrices, sizes.hidden_size))
    # The first matrix begins with share 1 everywhere. The others are zero: with shares they learn.
    v = v.at[0].set(0.0) / sizes.hidden_size**0.5
    return {**weights, "w": w, "b": jnp.zeros(sizes.hidden_size), "v": v}


def _start(theta: jax.Array) -> PreconditionedState:
    return PreconditionedState(tensorwise.zeros(theta))


def _update(
    sizes: Sizes,
    rate: float,
    phi: dict[str, jax.Array],
    seen: base.Seen,
    h_tm1: PreconditionedState,
) -> tuple[jax.Array, PreconditionedState]:
    g = seen.gradient.reshape(-1)
    if g.size != sizes.dim:
        raise ValueError(
            f"the parameters of a problem must be one array of {sizes.dim} numbers for this "
            f"optimizer, got an array of {g.size}: join several arrays into one vector, and build "
            "it with dim= the length of that."
        )
    shares = _of_step(phi["shares"], seen.step)
    if seen.theta is not None:
        units = jnp.tanh(phi["w"] @ seen.theta.reshape(-1) + phi["b"])
        shares = shares + phi["v"] @ units
    if sizes.kind == "diagonal":
        direction = (shares @ phi["matrices"]) * g
    else:
        direction = shares @ (phi["matrices"] @ g)
    momentum = _of_step(phi["momentum"], seen.step)
    u_t = -rate * direction.reshape(seen.gradient.shape) + momentum * h_tm1.update
    return u_t, PreconditionedState(u_t)


def _of_step(weights: jax.Array, step: jax.Array) -> jax.Array:
    """Those of step t = 1, 2, ..; of later steps the last ones."""
    return weights[jnp.minimum(step, weights.shape[0]) - 1]
