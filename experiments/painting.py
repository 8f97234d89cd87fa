"""Paints a picture step by step; what was stopped goes on where it stood."""

import time
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tqdm

from learned_opt import _files, _fingerprint
from learned_opt.meta import unrolling
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.style_transfer import Art

# Between two times at which a course is kept. The state of a large picture is large: 80 numbers of
# each of its own for an LSTM, a gigabyte at 1,024 x 1,024.
SECONDS = 60.0


class Course(NamedTuple):
    """Where an optimization stands.

    Attributes:
      step: how many steps are done.
      theta: the picture.
      state: the optimizer's.
      loss: f(theta) before the last step.
    """

    step: int
    theta: jax.Array
    state: Any
    loss: float


Advance = Callable[[Course], Course]


def begin(
    art: Art,
    transformation: unrolling.Transformation,
    key: jax.Array,
) -> tuple[Course, Advance]:
    """The start of an optimization, and the function that makes a step of it.

    Args:
      art: whose first content picture is painted.
      transformation: a pair `(opt, phi)` or an optax transformation.
      key: of theta_0.
    """
    family = optimizee_base.as_family(art.family)
    problem = jax.jit(optimizee_base.begin)(family, key)
    rule, phi = unrolling.separate(transformation)

    def update(phi: Any, family: Any, problem: Any, theta: Any, state: Any) -> tuple:
        loss, gradient, _ = optimizee_base.value_and_grad_at(family, problem, theta, 0, ())
        updates, state = unrolling.join(rule, phi).update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state, loss

    step = jax.jit(update)
    theta = problem.theta_0
    state = jax.jit(lambda phi, theta: unrolling.join(rule, phi).init(theta))(phi, theta)

    def advance(course: Course) -> Course:
        theta, state, loss = step(phi, family, problem, course.theta, course.state)
        return Course(course.step + 1, theta, state, float(loss))

    return Course(0, theta, state, float("nan")), advance


def paint(
    art: Art,
    transformation: unrolling.Transformation,
    key: jax.Array,
    num_steps: int,
    title: str,
    path: str,
    digest: str = "",
) -> np.ndarray:
    """theta after all steps, with a bar.

    Args:
      art, transformation, key: see `begin`.
      num_steps: how many steps.
      title: of the bar.
      path: where the course is kept, once in `SECONDS` and when it is interrupted. One of the same
        pictures, features, weights, key and optimizer goes on.
      digest: what tells the optimizer from others.

    Raises:
      ValueError: where it diverged.
    """
    course, advance = begin(art, transformation, key)
    identity = _identity(art, key, digest)
    course = _read(path, identity, course, num_steps)
    kept_at = time.monotonic()
    with tqdm.tqdm(desc=title, total=num_steps, initial=course.step, unit="step") as bar:
        try:
            while course.step < num_steps:
                course = advance(course)
                bar.set_postfix_str(f"loss {course.loss:.3g}", refresh=False)
                bar.update()
                if time.monotonic() - kept_at >= SECONDS:
                    _write(path, identity, course)
                    kept_at = time.monotonic()
        except KeyboardInterrupt:
            _write(path, identity, course)
            raise
    theta = np.asarray(course.theta)
    if not np.isfinite(theta).all():
        raise ValueError(
            f"the picture diverged within {num_steps} steps: choose fewer --steps, or another "
            "--optimizer."
        )
    return theta


def _identity(art: Art, key: jax.Array, digest: str) -> str:
    """What tells one course from another."""
    family = _fingerprint.of_family(optimizee_base.as_family(art.family))
    return repr((family, _fingerprint.of_key(key), digest))


def _write(path: str, identity: str, course: Course) -> None:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((course.theta, course.state))]
    with _files.whole(path) as temporary:
        np.savez(temporary, *leaves, identity=identity, step=course.step, loss=course.loss)


def _read(
    path: str,
    identity: str,
    start: Course,
    num_steps: int,
) -> Course:
    """The course that was kept; the start where there is none, or that of another picture."""
    like, structure = jax.tree.flatten((start.theta, start.state))
    try:
        with _files.here(path) as there, np.load(there) as arrays:
            step = int(arrays["step"])
            if str(arrays["identity"]) != identity or step > num_steps:
                return start
            # NumPy reads bfloat16 as bytes without a type.
            leaves = [arrays[f"arr_{i}"].view(leaf.dtype) for i, leaf in enumerate(like)]
            theta, state = structure.unflatten(jax.numpy.asarray(leaf) for leaf in leaves)
            return Course(step, theta, state, float(arrays["loss"]))
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return start
