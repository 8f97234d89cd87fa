"""A model for each user, and the methods for logistic regression.

A solution lies in the span of a user's images and of where a method starts. So a method moves the
coefficients of theta in this basis and needs the products of the basis's vectors with each other,
`gram`, and no longer the images. An iteration is then one product with a small matrix.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.rivals.base import Rival, Task, Unrolled
from experiments.rivals.methods import in_blocks
from learned_opt import _checks
from learned_opt.optimizees import users
from learned_opt.optimizees.users import User

# The images of this many users are in the processor's cache together.
BLOCK = 128
# Iterations of conjugate gradients in each of the steps whose numbers are learned.
UNROLLED = (5, 6, 8)
NUM_TUNING, TUNING_SEED = 1024, 2_000_000
ADAM_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
WHY = (
    "At 0.1 % above the minimum, half a percent of a user's unseen images are classified in "
    "another way than by the exact solution, and as many of them rightly, to a tenth of a percent."
)

Solver = Callable[[User], jax.Array]


def task(num_images: int = 40, l2: float | None = None) -> Task:
    """Personal classifiers, see `learned_opt.optimizees.users.personal_classifiers`.

    Args:
      num_images, l2: see `personal_classifiers`.

    Returns:
      A `Task`. Fresh users write other images than those of training.
    """
    family = users.personal_classifiers(num_images, l2)
    l2 = 1 / num_images if l2 is None else l2
    return Task(
        family=family,
        fresh=new_users(num_images, l2),
        objective=functools.partial(_objective, l2),
        reference=functools.partial(_reference, l2),
        rivals=_rivals(family, l2),
        tolerance=1e-3,
        scale=lambda reference: reference,
        why=WHY,
        unrolled=unrolled_newton(l2, UNROLLED),
    )


def new_users(num_images: int = 40, l2: float | None = None) -> Any:
    """The family of users who write other images than those a method was tuned on."""
    return users.personal_classifiers(num_images, l2, split="test")


def _double(instances: User) -> tuple[np.ndarray, np.ndarray]:
    """Images with a constant one `[users, num_images, 65]`, and labels, in double precision."""
    x, y = (np.asarray(leaf, np.float64) for leaf in instances)
    return np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2), y


def _objective(
    l2: float,
    answers: Any,
    instances: User,
) -> np.ndarray:
    x, y = _double(instances)
    theta = np.asarray(answers, np.float64)
    margins = y * np.einsum("nij,nj->ni", x, theta)
    penalty = l2 / 2 * np.sum(theta**2, axis=1)
    return np.mean(np.logaddexp(0.0, -margins), axis=1) + penalty


def _reference(l2: float, instances: User) -> np.ndarray:
    return _objective(l2, solutions(l2, instances), instances)


def solutions(
    l2: float,
    instances: User,
    accuracy: float = 1e-10,
) -> np.ndarray:
    """Solutions `[users, 65]` whose gradient's norm is at most `accuracy`.

    They come from Newton's method in float64, which halves a step that does not descend.

    Args:
      l2: the penalty.
      instances: users.
      accuracy: the largest norm of a gradient.

    Raises:
      RuntimeError: if some gradient is larger.
    """
    x, y = _double(instances)
    theta = np.zeros((len(x), x.shape[2]))
    for _ in range(50):
        gradient, hessian = _derivatives(l2, theta, x, y)
        if np.max(np.linalg.norm(gradient, axis=1)) <= accuracy:
            return theta
        direction = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        theta = _descended(l2, theta, direction, instances)
    raise RuntimeError("Newton's method in float64 did not converge.")


def _derivatives(
    l2: float,
    theta: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients `[users, 65]` and Hessians `[users, 65, 65]`."""
    margins = y * np.einsum("nij,nj->ni", x, theta)
    wrong = 1 / (1 + np.exp(margins))
    slopes = -y * wrong / y.shape[1]
    gradient = np.einsum("nij,ni->nj", x, slopes) + l2 * theta
    weighted = x * (wrong * (1 - wrong) / y.shape[1])[..., None]
    hessian = np.swapaxes(x, 1, 2) @ weighted + l2 * np.eye(x.shape[2])
    return gradient, hessian


def _descended(
    l2: float,
    theta: np.ndarray,
    direction: np.ndarray,
    instances: User,
) -> np.ndarray:
    before = _objective(l2, theta, instances)
    size = np.ones_like(before)
    for _ in range(10):
        after = _objective(l2, theta + size[:, None] * direction, instances)
        # Near the solution, what is left is rounding.
        worse = after > before + 1e-14
        if not worse.any():
            break
        size = np.where(worse, size / 2, size)
    return theta + size[:, None] * direction


def _rivals(family: Any, l2: float) -> tuple[Rival, ...]:
    tuning = functools.cache(functools.partial(_tuning, family, l2))
    bound = functools.partial(functools.partial, l2=l2)
    few = (1, 2, 3, 4, 5, 6, 7, 8, 10, 15)
    # Of conjugate gradients in each step, from few products in all to many.
    inner = (
        *((3, 4, 5, 6), (2, 3, 4, 4, 5), (2, 3, 3, 4, 6), (5, 5, 5, 5), (4, 5, 6, 7)),
        *((3, 3, 4, 5, 6), (3, 4, 4, 5, 6), (5,) * 5, (5,) * 6, (5,) * 8, (5,) * 15),
    )
    iterations = (3, 5, 7, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
    many = (10, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500)
    tolerances = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-6)
    rivals = []
    for where, start in (("", _no_start), (", shared start", tuning)):
        rivals += [
            Rival(f"Newton{where}", few, bound(_solve_newton, start=start)),
            Rival(f"truncated Newton{where}", inner, bound(_solve_truncated, start=start)),
            Rival(f"conjugate gradients{where}", iterations, bound(_solve_conjugate, start=start)),
            Rival(f"L-BFGS{where}", iterations, bound(_solve_lbfgs, start=start)),
            Rival(f"Nesterov{where}", many, bound(_solve_nesterov, start=start)),
            Rival(f"Adam, tuned{where}", many, bound(_solve_adam, start=start, tuning=tuning)),
        ]
    for solver in ("lbfgs", "newton-cholesky"):
        solve = bound(_solve_sklearn, solver=solver)
        rivals.append(Rival(f"scikit-learn, {solver}", tolerances, solve, False))
    return tuple(rivals)


class _Tuning(NamedTuple):
    """Training users that a method's numbers are tuned on, and what they have in common."""

    instances: User
    reference: np.ndarray
    start: jax.Array  # the minimizer of their mean loss: one model for all


def _tuning(family: Any, l2: float) -> _Tuning:
    keys = jax.random.split(jax.random.key(TUNING_SEED), NUM_TUNING)
    instances = jax.jit(jax.vmap(family.sample))(keys)
    pooled = jax.tree.map(lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), instances)
    start = jnp.asarray(solutions(l2, pooled)[0], jnp.float32)
    return _Tuning(instances, _reference(l2, instances), start)


class _NoStart(NamedTuple):
    start: None = None


def _no_start() -> _NoStart:
    return _NoStart()


class _Basis(NamedTuple):
    """What a method sees of some users.

    Attributes:
      vectors: `[users, basis, 65]`, the images with a one, and where a method starts.
      gram: `[users, basis, basis]`, their products.
      y: `[users, num_images]`.
      start: `[users, basis]`, the coefficients of where a method starts.
    """

    vectors: jax.Array
    gram: jax.Array
    y: jax.Array
    start: jax.Array


class _Slopes(NamedTuple):
    """At some coefficients.

    Attributes:
      gradient: its coefficients.
      curvature: the second derivatives of the mean loss with respect to the scores, zero for the
        vector that is no image.
    """

    gradient: jax.Array
    curvature: jax.Array


def _with_one(x: jax.Array) -> jax.Array:
    return jnp.concatenate([x, jnp.ones((*x.shape[:2], 1), x.dtype)], axis=2)


def _basis(instances: User, start: jax.Array | None) -> _Basis:
    vectors = _with_one(instances.x)
    coefficients = jnp.zeros(instances.y.shape)
    if start is not None:
        again = jnp.broadcast_to(start[None, None], (len(vectors), 1, len(start)))
        vectors = jnp.concatenate([vectors, again], axis=1)
        coefficients = jnp.pad(coefficients, [(0, 0), (0, 1)], constant_values=1.0)
    gram = jnp.einsum("nij,nkj->nik", vectors, vectors)
    return _Basis(vectors, gram, instances.y, coefficients)


def _theta(basis: _Basis, coefficients: jax.Array) -> jax.Array:
    return jnp.einsum("nij,ni->nj", basis.vectors, coefficients)


def _times(basis: _Basis, coefficients: jax.Array) -> jax.Array:
    return jnp.einsum("nij,nj->ni", basis.gram, coefficients)


def _starts_at_zero(basis: _Basis) -> bool:
    """Only images are in the basis then."""
    return basis.start.shape == basis.y.shape


def _scores_of_start(basis: _Basis) -> jax.Array:
    if _starts_at_zero(basis):
        return jnp.zeros_like(basis.start)
    return _times(basis, basis.start)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of coefficients and the product of others with the gram: that of the vectors themselves."""
    return jnp.sum(a * b, axis=1, keepdims=True)


def _slopes(
    l2: float,
    basis: _Basis,
    coefficients: jax.Array,
    scores: jax.Array,
) -> _Slopes:
    num_images = basis.y.shape[1]
    wrong = jax.nn.sigmoid(-basis.y * scores[:, :num_images])
    others = [(0, 0), (0, scores.shape[1] - num_images)]
    gradient = jnp.pad(-basis.y * wrong / num_images, others) + l2 * coefficients
    return _Slopes(gradient, jnp.pad(wrong * (1 - wrong) / num_images, others))


def _mean_loss(
    l2: float,
    basis: _Basis,
    coefficients: jax.Array,
    scores: jax.Array,
) -> jax.Array:
    margins = basis.y * scores[:, : basis.y.shape[1]]
    mean = jnp.mean(jax.nn.softplus(-margins), axis=1, keepdims=True)
    return mean + l2 / 2 * _dot(coefficients, scores)


def _moved(
    l2: float,
    basis: _Basis,
    point: tuple,
    along: tuple,
    length: jax.Array | float,
) -> tuple:
    """A Newton step along a direction, or a shorter one that surely descends.

    Steps from zero need no check. The shorter one minimizes Bach's 2010 upper bound of a logistic
    loss: its third derivative is at most its second one times the largest change of a score.
    """
    full = tuple(a + length * b for a, b in zip(point, along, strict=True))
    if _starts_at_zero(basis):
        return full
    most = jnp.max(jnp.abs(along[1][:, : basis.y.shape[1]]), axis=1, keepdims=True) + 1e-30
    shorter = jnp.log1p(most * length) / most
    better = _mean_loss(l2, basis, *full) <= _mean_loss(l2, basis, *point) + 1e-6
    length = jnp.where(better, length, shorter)
    return tuple(a + length * b for a, b in zip(point, along, strict=True))


def _in_basis(method: Callable, tuning: Callable) -> Solver:
    """`method(basis) -> coefficients` on blocks of users."""
    start = tuning().start

    def solve(x: jax.Array, y: jax.Array) -> jax.Array:
        basis = _basis(User(x, y), start)
        return _theta(basis, method(basis))

    return _of_users(in_blocks(solve, BLOCK))


def _of_users(blocks: Callable) -> Solver:
    return lambda instances: blocks(*instances)


def _solve_newton(
    effort: int,
    *,
    l2: float,
    start: Callable,
) -> Solver:
    """Newton's method, with a Cholesky decomposition in the dual form."""

    def method(basis: _Basis) -> jax.Array:
        identity = l2 * jnp.eye(basis.gram.shape[1])[None]

        def iterate(_: jax.Array, state: tuple) -> tuple:
            coefficients, scores = state
            slopes = _slopes(l2, basis, coefficients, scores)
            # The Hessian is l2 I + A^T S A; its inverse times A^T g is A^T times what follows.
            root = jnp.sqrt(slopes.curvature)
            matrix = identity + root[:, :, None] * basis.gram * root[:, None]
            right = root * _times(basis, slopes.gradient)
            factor = (jnp.linalg.cholesky(matrix, symmetrize_input=False), True)
            solved = jax.scipy.linalg.cho_solve(factor, right[..., None])[..., 0]
            direction = (root * solved - slopes.gradient) / l2
            along = direction, _times(basis, direction)
            return _moved(l2, basis, (coefficients, scores), along, 1.0)

        first = basis.start, _scores_of_start(basis)
        return jax.lax.fori_loop(0, effort, iterate, first)[0]

    return _in_basis(method, start)


def _solve_truncated(
    effort: tuple[int, ...],
    *,
    l2: float,
    start: Callable,
) -> Solver:
    """Newton's method with some iterations of conjugate gradients in the place of a solver.

    The effort has their number for each step.
    """

    def method(basis: _Basis) -> jax.Array:
        point = basis.start, _scores_of_start(basis)
        for inner in effort:
            slopes = _slopes(l2, basis, *point)
            along = _newton_direction(l2, basis, slopes, inner)
            point = _moved(l2, basis, point, along, 1.0)
        return point[0]

    return _in_basis(method, start)


class NewtonNumbers(NamedTuple):
    """What each step of `unrolled_newton` has for itself, `[steps]`.

    Attributes:
      length: how far it goes along its direction, 1 in the plain method.
      log_curvature: the logarithm of what the curvature of the mean loss is multiplied by.
      log_l2: the logarithm of what the penalty's curvature is multiplied by.
    """

    length: jax.Array
    log_curvature: jax.Array
    log_l2: jax.Array


def unrolled_newton(l2: float, inner: tuple[int, ...]) -> Unrolled:
    """Truncated Newton steps from zero, each with a length and dampings that are learned.

    Args:
      l2: the penalty.
      inner: iterations of conjugate gradients in each step.
    """

    def numbers(key: jax.Array) -> NewtonNumbers:
        del key
        zeros = jnp.zeros(len(inner))
        return NewtonNumbers(zeros + 1, zeros, zeros)

    def method(numbers: NewtonNumbers, instance: User) -> jax.Array:
        return of_block(numbers, *(leaf[None] for leaf in instance))[0]

    def of_block(numbers: NewtonNumbers, x: jax.Array, y: jax.Array) -> jax.Array:
        basis = _basis(User(x, y), None)
        point = basis.start, _scores_of_start(basis)
        for k, iterations in enumerate(inner):
            slopes = _slopes(l2, basis, *point)
            bent = slopes.curvature * jnp.exp(numbers.log_curvature[k])
            slopes = slopes._replace(curvature=bent)
            damped = l2 * jnp.exp(numbers.log_l2[k])
            along = _newton_direction(damped, basis, slopes, iterations)
            point = tuple(a + numbers.length[k] * b for a, b in zip(point, along, strict=True))
        return _theta(basis, point[0])

    def solve(numbers: NewtonNumbers) -> Solver:
        return _of_users(in_blocks(functools.partial(of_block, numbers), BLOCK))

    return Unrolled("truncated Newton", len(inner), numbers, method, solve)


def _newton_direction(
    l2: float,
    basis: _Basis,
    slopes: _Slopes,
    iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """Conjugate gradients for a Newton step: its coefficients and how it moves the scores."""

    def iterate(_: jax.Array, state: tuple) -> tuple:
        step, step_scores, residual, size, along, along_scores = state
        bent = l2 * along + slopes.curvature * along_scores
        length = size / (_dot(bent, along_scores) + 1e-30)
        residual = residual - length * bent
        residual_scores = _times(basis, residual)
        next_size = _dot(residual, residual_scores)
        beta = next_size / (size + 1e-30)
        return (
            step + length * along,
            step_scores + length * along_scores,
            residual,
            next_size,
            residual + beta * along,
            residual_scores + beta * along_scores,
        )

    zeros = jnp.zeros_like(slopes.gradient)
    residual = -slopes.gradient
    scores = _times(basis, residual)
    state = (zeros, zeros, residual, _dot(residual, scores), residual, scores)
    return jax.lax.fori_loop(0, iterations, iterate, state)[:2]


def _solve_conjugate(
    effort: int,
    *,
    l2: float,
    start: Callable,
) -> Solver:
    """Nonlinear conjugate gradients (Polak and Ribiere) with Newton's step along a direction."""

    def method(basis: _Basis) -> jax.Array:
        def iterate(_: jax.Array, state: tuple) -> tuple:
            coefficients, scores, old, old_scores, along, along_scores = state
            slopes = _slopes(l2, basis, coefficients, scores)
            gradient = slopes.gradient
            gradient_scores = _times(basis, gradient)
            change = _dot(gradient, gradient_scores - old_scores)
            beta = jnp.maximum(change / (_dot(old, old_scores) + 1e-30), 0.0)
            along = beta * along - gradient
            along_scores = beta * along_scores - gradient_scores
            length = _length(l2, slopes, along, along_scores)
            point = (coefficients, scores)
            point = _moved(l2, basis, point, (along, along_scores), length)
            return *point, gradient, gradient_scores, along, along_scores

        zeros = jnp.zeros_like(basis.start)
        first = (basis.start, _scores_of_start(basis), zeros, zeros, zeros, zeros)
        return jax.lax.fori_loop(0, effort, iterate, first)[0]

    return _in_basis(method, start)


def _length(
    l2: float,
    slopes: _Slopes,
    along: jax.Array,
    along_scores: jax.Array,
) -> jax.Array:
    """Newton's step along a direction, for each user."""
    slope = _dot(slopes.gradient, along_scores)
    bend = _dot(l2 * along + slopes.curvature * along_scores, along_scores)
    return -slope / (bend + 1e-30)


def _solve_lbfgs(
    effort: int,
    *,
    l2: float,
    start: Callable,
    memory: int = 5,
) -> Solver:
    """L-BFGS (Nocedal 1980) with Newton's step along a direction."""

    def method(basis: _Basis) -> jax.Array:
        def iterate(i: jax.Array, state: tuple) -> tuple:
            point, gradient, slopes, pairs = state
            along = _two_loops(gradient, pairs, i)
            length = _length(l2, slopes, *along)
            new = _moved(l2, basis, point, along, length)
            slopes = _slopes(l2, basis, *new)
            after = (slopes.gradient, _times(basis, slopes.gradient))
            pair = (_difference(new, point), _difference(after, gradient))
            pairs = jax.tree.map(lambda kept, x: kept.at[i % memory].set(x), pairs, pair)
            return new, after, slopes, pairs

        point = (basis.start, _scores_of_start(basis))
        slopes = _slopes(l2, basis, *point)
        gradient = (slopes.gradient, _times(basis, slopes.gradient))
        none = jnp.zeros((memory, *basis.start.shape))
        first = (point, gradient, slopes, ((none, none), (none, none)))
        return jax.lax.fori_loop(0, effort, iterate, first)[0][0]

    return _in_basis(method, start)


def _difference(a: tuple, b: tuple) -> tuple:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _two_loops(
    gradient: tuple,
    pairs: tuple,
    number: jax.Array,
) -> tuple:
    """Minus the inverse Hessian's estimate times the gradient, as coefficients and as scores.

    Args:
      gradient: its coefficients and scores.
      pairs: the last steps, and changes of the gradient, as coefficients and as scores
        `[memory, users, basis]`; zero where there was none yet.
      number: how many pairs there were.
    """
    memory = len(pairs[0][0])
    ordered = [_pair(pairs, (number - 1 - k) % memory) for k in range(memory)]
    products = [_dot(step[0], change[1]) for step, change in ordered]
    # No pair yet, or one that is all rounding, has no part in it.
    inverses = [jnp.where(x > 1e-12, 1 / jnp.maximum(x, 1e-12), 0.0) for x in products]
    q = gradient
    weights = []
    for (step, change), inverse in zip(ordered, inverses, strict=True):
        weight = _dot(step[0], q[1]) * inverse
        weights.append(weight)
        q = tuple(a - weight * b for a, b in zip(q, change, strict=True))
    scale = _dot(*ordered[0][1]) * inverses[0]
    q = tuple(a / jnp.where(scale > 0, scale, 1.0) for a in q)
    backwards = zip(ordered[::-1], inverses[::-1], weights[::-1], strict=True)
    for (step, change), inverse, weight in backwards:
        more = weight - _dot(change[0], q[1]) * inverse
        q = tuple(a + more * b for a, b in zip(q, step, strict=True))
    return tuple(-a for a in q)


def _pair(pairs: tuple, i: jax.Array) -> tuple:
    return jax.tree.map(lambda x: x[i], pairs)


def _solve_nesterov(
    effort: int,
    *,
    l2: float,
    start: Callable,
) -> Solver:
    """Nesterov's method with the step 1 / L of each user, with restarts (O'Donoghue, Candes)."""

    def method(basis: _Basis) -> jax.Array:
        step = 1 / (_largest(basis) / (4 * basis.y.shape[1]) + l2)

        def iterate(_: jax.Array, state: tuple) -> tuple:
            coefficients, scores, ahead, ahead_scores, t = state
            slopes = _slopes(l2, basis, ahead, ahead_scores)
            new = ahead - step * slopes.gradient
            new_scores = _times(basis, new)
            change, change_scores = new - coefficients, new_scores - scores
            uphill = _dot(slopes.gradient, change_scores) > 0
            t = jnp.where(uphill, 1.0, t)
            next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            beta = (t - 1) / next_t
            return new, new_scores, new + beta * change, new_scores + beta * change_scores, next_t

        scores = _scores_of_start(basis)
        first = (basis.start, scores, basis.start, scores, jnp.ones((len(scores), 1)))
        return jax.lax.fori_loop(0, effort, iterate, first)[0]

    return _in_basis(method, start)


def _largest(basis: _Basis) -> jax.Array:
    """An estimate of the gram's largest eigenvalue, `[users, 1]`, by the power method."""
    num_images = basis.y.shape[1]
    gram = basis.gram[:, :num_images, :num_images]

    def iterate(_: jax.Array, v: jax.Array) -> jax.Array:
        product = jnp.einsum("nij,nj->ni", gram, v)
        return product / jnp.linalg.norm(product, axis=1, keepdims=True)

    # The images' own lengths: large where the first eigenvector is.
    v = jax.lax.fori_loop(0, 8, iterate, basis.y)
    # It is from below, by less than this as a rule.
    return 1.05 * jnp.linalg.norm(jnp.einsum("nij,nj->ni", gram, v), axis=1, keepdims=True)


def _solve_adam(
    effort: int,
    *,
    l2: float,
    start: Callable,
    tuning: Callable,
) -> Solver:
    """Adam with a cosine schedule; its learning rate is the best of a grid for this effort."""
    where = start().start
    theta_0 = jnp.zeros(users.NUM_PIXELS + 1) if where is None else where
    run = in_blocks(functools.partial(_adam, effort, l2, theta_0), BLOCK)
    found = tuning()

    def distance(rate: float) -> float:
        rates = jnp.full(len(found.instances.y), rate)
        reached = _objective(l2, run(*found.instances, rates), found.instances)
        return float(np.quantile(reached / found.reference, 0.95))

    rate = min(ADAM_RATES, key=distance)
    return lambda instances: run(*instances, jnp.full(len(instances.y), rate))


def _adam(
    iterations: int,
    l2: float,
    theta_0: jax.Array,
    x: jax.Array,
    y: jax.Array,
    rates: jax.Array,
) -> jax.Array:
    vectors = _with_one(x)
    adam = optax.scale_by_adam()

    def iterate(i: jax.Array, state: tuple) -> tuple:
        theta, moments = state
        scores = jnp.einsum("nij,nj->ni", vectors, theta)
        slopes = -y * jax.nn.sigmoid(-y * scores) / y.shape[1]
        gradient = jnp.einsum("nij,ni->nj", vectors, slopes) + l2 * theta
        update, moments = adam.update(gradient, moments)
        rate = rates[:, None] * (1 + jnp.cos(jnp.pi * i / iterations)) / 2
        return theta - rate * update, moments

    theta = jnp.broadcast_to(theta_0[None], (len(x), len(theta_0)))
    return jax.lax.fori_loop(0, iterations, iterate, (theta, adam.init(theta)))[0]


def _solve_sklearn(
    effort: float,
    *,
    l2: float,
    solver: str,
) -> Solver:
    """scikit-learn's LogisticRegression; the effort is its tolerance."""
    linear_model = _checks.extra("sklearn.linear_model", "scikit-learn", "logistic regression")
    threadpoolctl = _checks.extra("threadpoolctl", "threadpoolctl", "logistic regression")

    def solve(instances: User) -> np.ndarray:
        x, y = _double(instances)
        model = linear_model.LogisticRegression(
            C=1 / (l2 * y.shape[1]), tol=effort, solver=solver, fit_intercept=False, max_iter=1000
        )
        # Threads for each product would cost more than the small products themselves.
        with threadpoolctl.threadpool_limits(1):
            return np.stack([_fitted(model, *user) for user in zip(x, y, strict=True)])

    return solve


def _fitted(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if len(np.unique(y)) == 1:
        # It takes no single class. Twice the images with both labels of weights one and nothing
        # are the same problem.
        doubled = np.concatenate([x, x])
        labels = np.concatenate([y, -y])
        weights = np.concatenate([np.ones(len(y)), np.full(len(y), 1e-12)])
        return np.copy(model.fit(doubled, labels, sample_weight=weights).coef_[0])
    return np.copy(model.fit(x, y).coef_[0])
