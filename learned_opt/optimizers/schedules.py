"""How long a step is in the course of a run, relative to the longest one."""

import jax
import jax.numpy as jnp

SCHEDULES = ("cosine", "linear", "constant", "endless")
WARM_UP = 0.05  # the share of a run in which steps grow
ENDLESS_WARM_UP = 50  # steps, where the end is not known
LONGEST_BEGINNING = 50  # steps that count as the beginning of a long run
ENDLESS_HALF = 500  # steps after which an endless run's are shorter by the root of two
# The share of a line at which it is left for a parabola: what can be solved exactly ends lower, and
# what is noise alone hardly ends higher.
LANDING = 0.03
LONG = 1_000  # steps; in longer runs all of them are shorter
SHORTENING = 0.4  # the power of the length of a run with which they are


def length(
    name: str,
    step: jax.Array,
    num_steps: jax.Array | float | None,
) -> jax.Array:
    """The length of a step, in (0, 1], and 0 after the last one.

    With an end, steps grow along a line for 5 % of the run. Then "cosine" and "linear" fall to
    zero, and "constant" stays. "linear" is a line but for its end: where 3 % are left, it is half
    as high. Without an end, "endless" grows for 50 steps and falls as `(1 + t / 500)^-1/2`.

    Args:
      name: one of `SCHEDULES`.
      step: t, 1 at the first step.
      num_steps: T, the steps of the run; not read by "endless".

    Returns:
      A scalar of float32.
    """
    t = step.astype(jnp.float32)
    if name == "endless":
        return jnp.minimum(t / ENDLESS_WARM_UP, jax.lax.rsqrt(1 + t / ENDLESS_HALF))
    end = jnp.asarray(num_steps, jnp.float32)
    done = t / end
    # The last step is not of length zero, which would be wasted.
    left = jnp.clip((1 - done + 1 / end) / (1 - WARM_UP), 0, 1)
    falling = {
        "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * left),
        "linear": (1 + LANDING) * left * left / (left + LANDING),
        "constant": jnp.ones_like(left),
    }[name]
    return jnp.minimum(done / WARM_UP, falling)


def of_long_runs(
    name: str,
    num_steps: jax.Array | float | None,
) -> jax.Array:
    """The factor on all steps of a run: `(1000 / T)^0.4`, and one up to 1,000 steps.

    The longer a run is, the further a network can go with short steps, and what long ones do is
    noise. "endless" has no T: there it is one, and steps become shorter as they are taken.

    Args:
      name: one of `SCHEDULES`.
      num_steps: T, the steps of the run; not read by "endless".

    Returns:
      A scalar of float32.
    """
    if name == "endless":
        return jnp.ones((), jnp.float32)
    end = jnp.asarray(num_steps, jnp.float32)
    return jnp.minimum(1, (LONG / end) ** SHORTENING)


def has_just_begun(
    name: str,
    step: jax.Array,
    num_steps: jax.Array | float | None,
) -> jax.Array:
    """Whether a run has just begun: the first half of the warm-up, and at most 50 steps.

    Args:
      name: one of `SCHEDULES`.
      step: t, 1 at the first step.
      num_steps: T, the steps of the run; not read by "endless".

    Returns:
      A scalar of bool.
    """
    if name == "endless":
        return step <= ENDLESS_WARM_UP / 2
    return (share(name, step, num_steps) <= WARM_UP / 2) & (step <= LONGEST_BEGINNING)


def share(
    name: str,
    step: jax.Array,
    num_steps: jax.Array | float | None,
) -> jax.Array:
    """Which share of the run is done, in [0, 1]; half of it where it has no end."""
    if name == "endless":
        return jnp.asarray(0.5, jnp.float32)
    return jnp.minimum(step.astype(jnp.float32) / jnp.asarray(num_steps, jnp.float32), 1)
