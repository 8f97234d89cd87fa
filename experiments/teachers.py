"""Optimizers that others are to imitate; a teacher more is an entry of `TEACHERS`."""

import jax
import jax.numpy as jnp
import optax

import learned_opt


def hand_over(first, then, time):
    """One optimizer that hands over to another: the updates u of both are mixed, `(1 - a_t) u + a_t u'`.

    Both run from the beginning, so that the second one's averages are there when it is needed.

    Args:
      first: optax transformation of the beginning.
      then: optax transformation of the end.
      time: of the mixture `a_t = t^2 / (t^2 + time^2)`: the step at which both have one half.

    Returns:
      An optax transformation.
    """

    def init(params):
        return first.init(params), then.init(params), jnp.zeros((), jnp.int32)

    def update(gradients, state, params=None):
        first_state, then_state, count = state
        early, first_state = first.update(gradients, first_state, params)
        late, then_state = then.update(gradients, then_state, params)
        t = count.astype(jnp.float32)
        share = t**2 / (t**2 + time**2)
        mixed = jax.tree.map(
            lambda u, v: ((1 - share) * u + share * v).astype(u.dtype), early, late
        )
        return mixed, (first_state, then_state, count + 1)

    return optax.GradientTransformation(init, update)


def _rnnprop_then_adam():
    adam = optax.adam(lambda count: 0.02 / (1 + count / 1_500))
    return hand_over(learned_opt.pretrained("rnnprop-mnist"), adam, time=300)


TEACHERS = {
    # The rate is the best, or close to it, of twenty of the kind after 1,000, 2,000 and 10,000 steps of the base MLP.
    "rnnprop-mnist, then Adam with 0.02 / (1 + t / 1500)": _rnnprop_then_adam,
}
