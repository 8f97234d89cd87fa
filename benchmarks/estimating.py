"""Estimators of the meta-gradient on one problem: their time, their noise, and what they teach."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import learned_opt
from benchmarks import common
from learned_opt.estimators import NRES, PES, Adjoint, Autodiff, Estimator, Imitate, Mixture
from learned_opt.evaluation import baselines, timing
from learned_opt.meta import episode, programs
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Problem
from learned_opt.optimizers.base import LearnedOptimizer, Phi

REFERENCE = "adjoint"  # the estimator beside which the others are timed
VALIDATION_SEED, TUNE_SEED, NOISE_SEED = 2**31 - 1, 2**31 - 2, 2**31 - 3  # no seeds of training
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)  # of the teacher
SECONDS_AT_ONCE = 0.25


class Ground(NamedTuple):
    """What all estimators have in common.

    Attributes:
      opt: the optimizer that is learned.
      problem: the family that it is learned on.
      short: steps of a short window.
      long: steps of a long window.
      horizons: in steps, ascending.
      num_problems: how many problems live at once.
      num_pairs: the same of pairs, for `PES` and `NRES`.
      num_validation: how many fresh lives measure the meta-loss.
      learning_rate: of Adam on the weights; it decays to zero over the budget.
      seconds: the budget of a run.
      num_points: how often the meta-loss is measured in a run.
      noise_steps: over about so many steps of each life the estimates vary.
    """

    opt: LearnedOptimizer
    problem: Any
    short: int
    long: int
    horizons: tuple[int, ...]
    num_problems: int
    num_pairs: int
    num_validation: int
    learning_rate: float
    seconds: float
    num_points: int
    noise_steps: int


class Entrant(NamedTuple):
    """An estimator with its number of lives.

    Attributes:
      name: what it is called in tables.
      estimator: the estimator.
      num_problems: how many problems, or pairs, it is begun with.
      steps: how many steps of optimizees its meta-step takes.
    """

    name: str
    estimator: Estimator
    num_problems: int
    steps: int


class State(NamedTuple):
    """What is carried from one meta-step to the next.

    Attributes:
      phi: the weights.
      moments: the state of their optimizer.
      lives: the estimator's.
      skipped: how many gradients were not finite.
      total: the sum of all gradients, `[weights]`.
      square: the sum of their squared norms.
    """

    phi: Phi
    moments: Any
    lives: Any
    skipped: jax.Array
    total: jax.Array
    square: jax.Array


class Draws(NamedTuple):
    """Estimates at fixed weights, from several sets of lives.

    Attributes:
      means: the mean over a life of each set, `[sets, weights]`.
      squares: the mean over a life of the squared norm, `[sets]`.
    """

    means: np.ndarray
    squares: np.ndarray


def decaying_adam(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    """Adam with a rate that decays to zero over the horizon: the teacher."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


@dataclasses.dataclass(frozen=True)
class _MeanLoss:
    """A measure for `baselines.tune`: the mean loss over a life."""

    of_run = True

    def __call__(self, run: Any, problem: Problem) -> jax.Array:
        del problem
        return jnp.mean(run.losses[1:])


def tuned_adam(ground: Ground, horizon: int) -> baselines.Tuned:
    """The teacher with the rate that has the smallest mean loss over a life."""
    return baselines.tune(
        decaying_adam,
        ground.problem,
        jax.random.key(TUNE_SEED),
        horizon,
        ground.num_validation,
        RATES,
        _MeanLoss(),
    )


def entrants(
    ground: Ground,
    horizon: int,
    teacher: optax.GradientTransformation,
) -> dict[str, Entrant]:
    """All estimators that serve a horizon, by name. There is a mixture above the shortest one."""
    short, long = ground.short, ground.long
    made: dict[str, Any] = {
        REFERENCE: Adjoint(short),
        f"adjoint, window {long}": Adjoint(long),
        "autodiff": Autodiff(short, stop_gradient=False),
        "imitate": Imitate(teacher, window=short),
    }
    shorter = tuple(other for other in ground.horizons if other < horizon)
    if shorter:
        made["mixture"] = Mixture(Adjoint(short), horizons=shorter)
    entered = {}
    for name, estimator in made.items():
        num_lives = ground.num_problems * (1 + len(shorter) if name == "mixture" else 1)
        steps = num_lives * estimator.window
        entered[name] = Entrant(name, estimator, ground.num_problems, steps)
    for name, kind in (("pes", PES), ("nres", NRES)):
        estimator = kind(window=long // 2, shortest=None)
        steps = 2 * ground.num_pairs * estimator.window
        entered[name] = Entrant(name, estimator, ground.num_pairs, steps)
    return entered


class Lab:
    """Programs of all estimators on one ground, each of which is compiled once."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._family = optimizee_base.as_family(ground.problem)
        self._programs: dict[Any, jax.stages.Compiled] = {}

    def phi(self, seed: int) -> Phi:
        """Fresh weights."""
        return self.ground.opt.init(jax.random.key(seed))

    def meta_loss(self, tx: Any, horizon: int) -> float:
        """The mean loss over fresh lives, which are the same for everybody.

        Args:
          tx: an optax transformation, or a pair `(opt, phi)`.
          horizon: steps of a life.
        """
        key = jax.random.key(VALIDATION_SEED)
        ground = self.ground
        curves = learned_opt.evaluate(tx, ground.problem, key, horizon, ground.num_validation)
        return float(jnp.mean(curves[:, 1:]))

    def compile(self, entered: dict[str, Entrant], horizon: int) -> None:
        """Compiles what is not compiled, so that no clock sees it."""
        for entrant in tqdm.tqdm(entered.values(), "compiling", unit="estimator", leave=False):
            self._program(entrant, horizon)

    def time_meta_steps(
        self,
        entered: dict[str, Entrant],
        horizon: int,
        rounds: int,
    ) -> list[dict]:
        """Times a meta-step of every estimator; returns one dict for each."""
        calls, memory = {}, {}
        for name, entrant in entered.items():
            program = self._program(entrant, horizon)
            arguments = self._arguments(jax.random.key(0))
            state = self._begin(entrant, self.phi(0), jax.random.key(0), horizon)
            calls[name] = functools.partial(program, *arguments, state)
            memory[name] = common.temporary_bytes(program)
        times = timing.interleaved(calls, rounds, "meta-steps")
        results = []
        for name, entrant in entered.items():
            result = {
                "estimator": name,
                "steps": entrant.steps,
                "seconds": times[name],
                "time_over_adjoint": common.ratio(times, name, REFERENCE),
                "temporary_bytes": memory[name],
            }
            results.append(result)
        return results

    def train(
        self,
        entrant: Entrant,
        seed: int,
        horizon: int,
    ) -> tuple[dict, Phi]:
        """Meta-trains until the budget is spent. Validation is not on the clock.

        Returns:
          `(record, phi)`: what became of the meta-loss, and the last weights.
        """
        ground = self.ground
        program = self._program(entrant, horizon)
        begin_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), horizon))
        state = jax.block_until_ready(self._begin(entrant, self.phi(seed), begin_key, horizon))
        windows, seconds, rate = 0, 0.0, 0.0
        points: dict[str, list] = {"seconds": [], "meta_losses": [], "meta_steps": []}
        for point in range(1, ground.num_points + 1):
            target = ground.seconds * point / ground.num_points
            while seconds < target:
                at_once = min(target - seconds, SECONDS_AT_ONCE)
                num = max(1, int(rate * at_once))
                done = seconds / ground.seconds
                arguments = self._arguments(run_key, windows, num, ground.learning_rate, done)
                start = time.perf_counter()
                state = jax.block_until_ready(program(*arguments, state))
                took = time.perf_counter() - start
                windows, seconds, rate = windows + num, seconds + took, num / took
            points["seconds"].append(seconds)
            points["meta_losses"].append(self.meta_loss((ground.opt, state.phi), horizon))
            points["meta_steps"].append(windows)
        record = {
            "estimator": entrant.name,
            "horizon": horizon,
            "seed": seed,
            "skipped": int(state.skipped),
            **points,
        }
        return record, state.phi

    def draw(
        self,
        entrant: Entrant,
        phi: Phi,
        horizon: int,
    ) -> Draws:
        """Estimates over whole lives at fixed weights, from several sets of lives."""
        together = entrant
        if isinstance(entrant.estimator, (PES, NRES)):
            # All pairs begin together: so a set of lives has each time of a life once.
            estimator = dataclasses.replace(entrant.estimator, staggered=False)
            together = entrant._replace(estimator=estimator)
        program = self._program(entrant, horizon)
        num_sets = max(3, self.ground.noise_steps // horizon)
        num_windows = horizon // entrant.estimator.window
        means, squares = [], []
        for key in keys_of_sets(num_sets):
            begin_key, run_key = jax.random.split(key)
            state = self._begin(together, phi, begin_key, horizon)
            state = program(*self._arguments(run_key, 0, num_windows), state)  # at a rate of zero
            means.append(np.asarray(state.total, np.float64) / num_windows)
            squares.append(float(state.square) / num_windows)
        return Draws(np.array(means), np.array(squares))

    def draw_whole(self, phi: Phi, horizon: int) -> Draws:
        """Gradients through whole lives and through the optimizees' own derivatives."""
        estimator = Autodiff(window=horizon, stop_gradient=False)
        num_problems = self.ground.num_problems
        return self.draw(Entrant("whole", estimator, num_problems, 0), phi, horizon)

    def _begin(
        self,
        entrant: Entrant,
        phi: Phi,
        key: jax.Array,
        horizon: int,
    ) -> State:
        lives = _begin(
            self.ground.opt,
            entrant.estimator,
            entrant.num_problems,
            self._family,
            phi,
            key,
            jnp.int32(horizon),
        )
        state = State(
            phi=phi,
            moments=_optimizer(0.0).init(phi),
            lives=lives,
            skipped=jnp.zeros((), jnp.int32),
            total=jnp.zeros(optax.tree.size(phi)),
            square=jnp.zeros(()),
        )
        return jax.tree.map(episode.own, state)

    def _arguments(
        self,
        key: jax.Array,
        first: int = 0,
        num: int = 1,
        learning_rate: float = 0.0,
        done: float = 0.0,
    ) -> tuple:
        """The arguments of `_meta_steps` before the state."""
        counts = jnp.int32(first), jnp.int32(num)
        return self._family, key, *counts, jnp.float32(learning_rate), jnp.float32(done)

    def _program(self, entrant: Entrant, horizon: int) -> jax.stages.Compiled:
        """Some meta-steps. The horizon is in the lives, so that horizons share a program."""
        known = entrant.estimator, entrant.num_problems
        if known not in self._programs:
            function = functools.partial(_meta_steps, self.ground.opt, entrant.estimator)
            key = jax.random.key(0)
            state = self._begin(entrant, self.phi(0), key, horizon)
            self._programs[known] = common.compiled(function, *self._arguments(key), state)
        return self._programs[known]


def _optimizer(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    return learned_opt.ClippedAdam()(learning_rate, 1)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def _begin(
    opt: LearnedOptimizer,
    estimator: Estimator,
    num_problems: int,
    family: Family,
    phi: Phi,
    key: jax.Array,
    horizon: jax.Array,
) -> Any:
    return estimator.begin(opt, phi, family, jax.random.split(key, num_problems), horizon)


def _meta_steps(
    opt: LearnedOptimizer,
    estimator: Estimator,
    family: Family,
    key: jax.Array,
    first: jax.Array,
    num: jax.Array,
    learning_rate: jax.Array,
    done: jax.Array,
    state: State,
) -> State:
    """`num` meta-steps, of which `first` came before. A gradient that is not finite is zero."""
    weights = jnp.full(estimator.window, 1 / estimator.window)
    tx = _optimizer(learning_rate)

    def one(window: jax.Array, state: State) -> State:
        own_key = jax.random.fold_in(key, window)
        estimate = estimator.run(opt, state.phi, family, state.lives, own_key, weights, done)
        finite = jnp.isfinite(optax.tree.norm(estimate.gradient))
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0), estimate.gradient)
        updates, moments = tx.update(gradient, state.moments, state.phi, done=done)
        flat, _ = jax.flatten_util.ravel_pytree(gradient)
        return State(
            phi=optax.apply_updates(state.phi, updates),
            moments=moments,
            lives=estimate.lives,
            skipped=state.skipped + ~finite,
            total=state.total + flat,
            square=state.square + jnp.sum(jnp.square(flat)),
        )

    return jax.lax.fori_loop(first, first + num, one, state)


def keys_of_sets(num_sets: int) -> jax.Array:
    """The keys of sets of lives, the same for all estimators."""
    return jax.random.split(jax.random.key(NOISE_SEED), num_sets)


def square_of_mean(vectors: np.ndarray) -> float:
    """The squared norm of the expectation of independent vectors `[n, dim]`, without bias.

    It is the mean product of two different ones, and may be negative where the noise is large.
    """
    n = len(vectors)
    total = vectors.sum(axis=0)
    products = total @ total - np.sum(vectors**2)
    return float(products / (n * (n - 1)))


def noise_of(draws: Draws) -> float | None:
    """The relative standard deviation of one estimate; None where noise hides the mean.

    It is the norm of the standard deviation over the norm of the mean.
    """
    square = square_of_mean(draws.means)
    if square <= 0:
        return None
    variance = float(np.mean(draws.squares)) - square
    return float(np.sqrt(max(variance, 0.0) / square))


def bias_of(draws: Draws, whole: Draws) -> dict | None:
    """How far the mean estimate is from the gradient of whole lives, over the latter's norm.

    Returns:
      `{"bias", "error"}`, where the error is the standard error of the mean difference: a bias
      below it cannot be told from none. None where noise hides the whole gradient.
    """
    square = square_of_mean(whole.means)
    if square <= 0:
        return None
    differences = draws.means - whole.means
    variance = float(np.sum(np.var(differences, axis=0, ddof=1))) / len(differences)
    bias = max(square_of_mean(differences), 0.0)
    return {"bias": float(np.sqrt(bias / square)), "error": float(np.sqrt(variance / square))}
