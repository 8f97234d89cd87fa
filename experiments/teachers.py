"""Optimizers that others imitate. The next teacher is an entry of `TEACHERS`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import learned_opt
from learned_opt.evaluation import baselines


def hand_over(
    first: optax.GradientTransformation,
    then: optax.GradientTransformation,
    time: float,
) -> optax.GradientTransformation:
    """One optimizer that hands over to another.

    The update is a mixture of both updates, `(1 - a_t) u + a_t u'`. Both optimizers run from the
    beginning, so that the averages of the second one are there when they are needed.

    Args:
      first: optax transformation of the beginning.
      then: optax transformation of the end.
      time: the step at which both have one half: `a_t = t^2 / (t^2 + time^2)`.

    Returns:
      An optax transformation.
    """

    def init(params: Any) -> tuple:
        first_state = first.init(params)
        then_state = then.init(params)
        count = jnp.zeros((), jnp.int32)
        return first_state, then_state, count

    def update(
        gradients: Any,
        state: tuple,
        params: Any = None,
    ) -> tuple[Any, tuple]:
        first_state, then_state, count = state
        early, first_state = first.update(gradients, first_state, params)
        late, then_state = then.update(gradients, then_state, params)
        t = count.astype(jnp.float32)
        share = t**2 / (t**2 + time**2)

        def mixed(u: jax.Array, v: jax.Array) -> jax.Array:
            mixture = (1 - share) * u + share * v
            return mixture.astype(u.dtype)

        updates = jax.tree.map(mixed, early, late)
        return updates, (first_state, then_state, count + 1)

    return optax.GradientTransformation(init, update)


def _adam_of_the_end() -> optax.GradientTransformation:
    return optax.adam(baselines.inverse_time(0.02, 1_500))


def _rnnprop_then_adam() -> optax.GradientTransformation:
    rnnprop = learned_opt.pretrained("rnnprop-mnist")
    return hand_over(rnnprop, _adam_of_the_end(), time=300)


_RNNPROP_THEN_ADAM = "rnnprop-mnist, then Adam with 0.02 / (1 + t / 1500)"

# What a card says of a teacher, and the function that makes it.
TEACHERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    # The best rate, or close to it, of twenty of this kind on the base MLP, after 1,000, 2,000 and
    # 10,000 steps.
    _RNNPROP_THEN_ADAM: _rnnprop_then_adam,
}

# Parts of a teacher that have nothing learned in them. They stand beside what it has taught, since
# they may be all that there is to it.
PARTS: dict[str, dict[str, Callable[[], optax.GradientTransformation]]] = {
    _RNNPROP_THEN_ADAM: {"Adam, 0.02 / (1 + t / 1500)": _adam_of_the_end},
}


def rivals(teacher: str) -> dict[str, optax.GradientTransformation]:
    """What stands beside an optimizer in every table: its teacher, and that one's parts."""
    found = {"its teacher": TEACHERS[teacher]()}
    found.update({name: build() for name, build in PARTS.get(teacher, {}).items()})
    return found
