"""Whether an installed wheel works: `python tests/native/smoke.py`, with nothing but the wheel.

A few updates with the C++ loops are held to those without them.
"""

import jax
import jax.numpy as jnp
import numpy as np

import learned_opt
from learned_opt import native


def updates(name: str, **settings: int) -> list:
    """Three updates of some weights that ship."""
    tx = learned_opt.pretrained(name, **settings)
    theta = {"w": jnp.linspace(-1.0, 1.0, 300).reshape(30, 10), "b": jnp.zeros(10)}
    state, found = tx.init(theta), []
    for step in range(3):
        gradient = jax.tree.map(lambda x, step=step: jnp.sin(7 * x + step), theta)
        update, state = jax.jit(tx.update)(gradient, state, theta)
        found.append(jax.tree.map(np.asarray, update))
    return found


def main() -> None:
    """Compares, and says so."""
    for name, settings in (("rnnprop-mnist", {}), ("general", {"num_steps": 10})):
        fast = updates(name, **settings)
        with learned_opt.xla_loops():
            plain = updates(name, **settings)
        for ours, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)
    print(f"The loops are {'' if native.available() else 'not '}there, and updates are right.")


if __name__ == "__main__":
    main()
