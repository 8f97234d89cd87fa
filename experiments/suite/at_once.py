"""One optimizer on one task, many of its lives side by side: for an accelerator.

There a step takes as long for fifty small networks as for one. So all rates and lengths are tried
in one program, whose schedules know the length of each life; a life that is over goes on without
moving. What is tuned, and how, is the same as in turn: only more of it is known beforehand.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import measuring
from experiments.suite import shares
from experiments.suite.in_turn import Choice, Found, InTurn, Measured
from experiments.suite.optimizers import Optimizer, WithRate
from learned_opt.evaluation import halving
from learned_opt.meta import evaluating, programs, unrolling
from learned_opt.meta.unrolling import Rule, Run
from learned_opt.optimizees import base
from learned_opt.optimizees.base import Family, Problem
from learned_opt.optimizers.base import Phi


class Life(NamedTuple):
    """One life, as plain numbers, or of many lives as arrays `[lives]`.

    Attributes:
      decay: which of the optimizer's; 0 where nothing is tuned.
      rate: its learning rate; 0 where nothing is tuned.
      num_steps: how long it is.
      problem: which; those that are reported come first, then those that rates are tuned on.
    """

    decay: Any
    rate: Any
    num_steps: Any
    problem: Any


class _Tuned(NamedTuple):
    """Builds an optimizer with a learning rate; a life says which, and how it falls."""

    decays: tuple[WithRate, ...]

    def __call__(self, phi: Phi, life: Life) -> Any:
        del phi
        schedules = [one.decay(life.rate, life.num_steps) for one in self.decays]

        def schedule(count: jax.Array) -> jax.Array:
            return jnp.stack([one(count) for one in schedules])[life.decay]

        return self.decays[0].make(schedule)


class _Plain(NamedTuple):
    """Builds an optimizer that has its settings, for the steps of a life."""

    build: Callable[[Any], optax.GradientTransformation]

    def __call__(self, phi: Phi, life: Life) -> Any:
        del phi
        return self.build(life.num_steps)


class _Learned(NamedTuple):
    """Builds a learned optimizer, which is told the steps of a life at every update."""

    rule: Rule

    def __call__(self, phi: Phi, life: Life) -> Any:
        del life
        return unrolling.join(self.rule, phi)


def _builder(optimizer: Optimizer) -> tuple[Callable[[Phi, Life], Any], Phi]:
    """What is static of an optimizer in a program, and what is an argument of it."""
    if optimizer.decays is not None:
        return _Tuned(tuple(optimizer.decays.values())), ()
    tx = optimizer.build(None)
    if unrolling.is_pair(tx):
        rule, phi = tx
        return _Learned(rule), phi
    return _Plain(optimizer.build), ()


class AtOnce(InTurn):
    """`InTurn` with many lives in one program."""

    def evaluated(
        self,
        choice: Choice | None,
        num_steps: int,
        is_measured: bool,
    ) -> tuple[np.ndarray, Measured | None]:
        """See `InTurn.evaluated`."""
        lives = self._reported(choice, num_steps)
        others: list[Life] = []
        if self.optimizer.decays is None:
            steps = [shares.horizon(self.horizon, share) for share in self.lengths]
            others = [life for length in steps for life in self._reported(None, length)]
        losses = self._lived.losses(lives, others)[:, : num_steps + 1]
        losses = np.asarray(evaluating.infinite_once_diverged(losses))
        if not is_measured:
            return losses, None
        return losses, self._lived.measured(self.built.measures, lives)

    def searched(self, decay: str, rates: list[float]) -> Found:
        """See `InTurn.searched`."""
        num_runs = self.settings.tune_runs
        # The whole grid of all decays, on all runs, is one program: the search finds it there.
        every = [life for other in self.optimizer.decays for life in self._tried(other, self.rates)]
        losses = self._lived.losses(self._tried(decay, rates), every)
        finals = shares.final_losses(losses, self.horizon).reshape(len(rates), num_runs)
        likely = self._likely(decay, rates[int(np.argmin(finals.mean(axis=1)))])

        def evaluate(job_rates: np.ndarray, job_runs: np.ndarray) -> np.ndarray:
            jobs = zip(job_rates.tolist(), job_runs.tolist(), strict=True)
            lives = [self._trial(decay, rate, run) for rate, run in jobs]
            return shares.final_losses(self._lived.losses(lives, likely), self.horizon)

        found = halving.search(evaluate, rates, num_runs, self.optimizer.refine)
        tried = dict(zip(found.rates.tolist(), found.means.tolist(), strict=True))
        best = float(found.rates[found.best])
        return Found(best, tried[best], tried)

    def _tried(self, decay: str, rates: Iterable[float]) -> list[Life]:
        """All runs that rates are tuned on, of each of these."""
        runs = range(self.settings.tune_runs)
        return [self._trial(decay, rate, run) for rate in rates for run in runs]

    def _trial(
        self,
        decay: str,
        rate: float,
        run: int,
    ) -> Life:
        """One run that rates are tuned on."""
        return Life(self._position(decay), rate, self.horizon, self.settings.seeds + run)

    def _likely(self, decay: str, best: float) -> list[Life]:
        """The reported runs of the best rate of a grid, and of those a half-octave from it.

        One of these will be chosen, and where a program has room for them they cost nothing.
        """
        around = (best, best / halving.STEP, best * halving.STEP)
        return [
            life for rate in around for life in self._reported(Choice(decay, rate), self.horizon)
        ]

    def _position(self, decay: str) -> int:
        return list(self.optimizer.decays).index(decay)

    def _reported(self, choice: Choice | None, num_steps: int) -> list[Life]:
        """The runs that are reported."""
        decay, rate = (0, 0.0) if choice is None else (self._position(choice[0]), choice[1])
        return [Life(decay, rate, num_steps, run) for run in range(self.settings.seeds)]

    @functools.cached_property
    def _lived(self) -> "_Lived":
        keys = measuring.keys(self.settings.evaluation_seed)
        family = base.as_family(self.built.family)
        counts = self.settings.seeds, self.settings.tune_runs
        problems = [
            evaluating.begin_runs(family, key, count)
            for key, count in zip(keys, counts, strict=True)
        ]
        stacked = jax.tree.map(lambda *parts: jnp.concatenate(parts), *problems)
        return _Lived(self.optimizer, family, stacked, self.horizon, self.done)


class _Lived:
    """The lives of one optimizer on one task: each is lived once, side by side with others.

    Args:
      optimizer: the optimizer.
      family: of the task.
      problems: those that are reported, then those that rates are tuned on.
      num_steps: of the longest life.
      done: is told of the steps that are done.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        family: Family,
        problems: Problem,
        num_steps: int,
        done: Callable[[int], None],
    ) -> None:
        self._build, self._phi = _builder(optimizer)
        self._family = family
        self._problems = problems
        self._num_steps = num_steps
        self._done = done
        self._runs: dict[Life, tuple[np.ndarray, Callable[[], Run]]] = {}
        self._at_once = 0

    def losses(self, lives: Sequence[Life], others: Sequence[Life]) -> np.ndarray:
        """The losses of lives, `[lives, longest + 1]`.

        Args:
          lives: whose losses are wanted.
          others: that are likely to be wanted next, and are lived now if there is room. The first
            call decides how much room there is.
        """
        missing = self._missing(lives)
        if missing:
            further = [life for life in self._missing(others) if life not in missing]
            if not self._at_once:
                most = evaluating.runs_at_once(self._problems_of(missing + further))
                self._at_once = min(most, len(missing + further))
            room = -len(missing) % self._at_once
            self._live(missing + further[:room])
        return np.stack([self._runs[life][0] for life in lives])

    def measured(self, measures: dict[str, Callable], lives: Sequence[Life]) -> Measured:
        """What is measured at the end of lives, `[lives]` each."""
        runs = [self._runs[life][1]() for life in lives]
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *runs)
        measure = evaluating.as_measure(measures)
        return jax.tree.map(np.asarray, _measures(measure, stacked, self._problems_of(lives)))

    def _missing(self, lives: Sequence[Life]) -> list[Life]:
        return [life for life in dict.fromkeys(lives) if life not in self._runs]

    def _problems_of(self, lives: Sequence[Life]) -> Problem:
        index = jnp.asarray([life.problem for life in lives])
        return jax.tree.map(lambda x: x[index], self._problems)

    def _live(self, lives: Sequence[Life]) -> None:
        """Part after part, all of one size, so that one program is enough."""
        for start in range(0, len(lives), self._at_once):
            part = lives[start : start + self._at_once]
            filled = [part[i % len(part)] for i in range(self._at_once)]
            of_lives = Life(*(jnp.asarray(column) for column in zip(*filled, strict=True)))
            runs = _run(
                self._build,
                self._phi,
                self._family,
                self._problems_of(filled),
                of_lives,
                self._num_steps,
            )
            losses = np.asarray(runs.losses)
            for i, life in enumerate(part):
                self._runs[life] = losses[i], functools.partial(_row, runs, i)
            self._done(sum(life.num_steps for life in part))


def _row(runs: Run, i: int) -> Run:
    return jax.tree.map(lambda x: x[i], runs)


@functools.partial(programs.jit, static_argnums=(0, 5))
def _run(
    build: Callable[[Phi, Life], Any],
    phi: Phi,
    family: Family,
    problems: Problem,
    lives: Life,
    num_steps: int,
) -> Run:
    """Runs `[lives]`, whose losses after the end of a life mean nothing."""

    def one(problem: Problem, life: Life) -> Run:
        tx = _ending(build(phi, life), life.num_steps)
        return unrolling.life(tx, family, problem, num_steps)

    return jax.vmap(one)(problems, lives)


def _ending(tx: Any, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
    """An optimizer that does not move after `num_steps` steps, which it is told as its horizon."""
    tx = optax.with_extra_args_support(tx)

    def init(params: Any) -> tuple:
        return jnp.zeros((), jnp.int32), tx.init(params)

    def update(updates: Any, state: tuple, params: Any = None, **extra: Any) -> tuple:
        step, inner = state
        extra["horizon"] = num_steps
        updates, inner = tx.update(updates, inner, params, **extra)
        updates = jax.tree.map(lambda u: jnp.where(step < num_steps, u, 0), updates)
        return updates, (step + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


@programs.jit
def _measures(
    measure: jax.tree_util.Partial,
    runs: Run,
    problems: Problem,
) -> dict[str, jax.Array]:
    """One life after another: held-out data are many."""
    return jax.lax.map(lambda both: evaluating.measured(measure, *both), (runs, problems))
