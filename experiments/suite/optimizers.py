"""What the suite compares: rivals that are tuned, rivals with one setting, and ours."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import learned_opt
from learned_opt import _checks
from learned_opt.meta.unrolling import Transformation

OURS, ABLATION = "general", "general-ablated"
# What a controller is up against that mostly takes shorter steps.
SHORTER = "general-ablated-0.8"
ABLATIONS = ABLATION, SHORTER
ADAM, ADAMW, MUON = "adam-tuned", "adamw-tuned", "muon-tuned"
MUON_OF_KERNELS = "muon-kernels-tuned"
CONSTANT = "constant"  # the decay that is none
TUNED, FROZEN, LEARNED = "tuned", "frozen", "learned"

# Octaves, then half-octaves around the best one until it lies between two that are worse: about
# fifteen rates in all. Where the best rate of a grid lies at its end, the grid is extended.
OCTAVES = tuple(2.0**k for k in range(-13, 0))
MUON_RATES = tuple(0.0025 * 2**k for k in range(7))


Schedule = Callable[[jax.Array], jax.Array]


class WithRate(NamedTuple):
    """An optimizer with a learning rate, and one way in which the rate falls.

    Attributes:
      make: `make(schedule) -> optax transformation`.
      decay: `decay(learning_rate, num_steps) -> schedule`; both may be traced.
    """

    make: Callable[[Schedule], optax.GradientTransformation]
    decay: Callable[[Any, Any], Schedule]

    def __call__(self, learning_rate: Any, num_steps: Any) -> optax.GradientTransformation:
        """Builds it; both may be traced."""
        return self.make(self.decay(learning_rate, num_steps))


class Optimizer(NamedTuple):
    """One optimizer of the suite.

    Attributes:
      about: what it is, in words.
      kind: `TUNED`, `FROZEN` or `LEARNED`.
      build: `build(num_steps) -> Transformation`; None for what is tuned. The number of steps may
        be traced, or None for what is learned: then each update is told it.
      scheduled: whether `num_steps` changes what it does. Runs of several lengths are then runs of
        their own.
      decays: of what is tuned, dict from name to a `WithRate` of the same `make`. The best one is
        chosen together with its rate.
      rates: that it is tuned over.
      refine: whether half-octaves around the best rate are tried.
    """

    about: str
    kind: str
    build: Callable[[Any], Transformation] | None = None
    scheduled: bool = False
    decays: dict[str, WithRate] | None = None
    rates: tuple[float, ...] = ()
    refine: bool = False


def _learned(num_steps: Any) -> Transformation:
    """Ours."""
    opt, phi = learned_opt.load_pretrained(OURS)
    return learned_opt.general(**{**opt.spec["args"], "num_steps": num_steps}), phi


def _ablated(scale: float, num_steps: Any) -> Transformation:
    """Ours with nothing learned: Nesterov's momentum where the network stands, no controller."""
    opt = learned_opt.general(
        num_steps=num_steps, scale=scale, hidden_sizes=(), controller_sizes=()
    )
    return opt, opt.init(jax.random.key(0))


def _muon_of_kernels(learning_rate: Schedule) -> optax.GradientTransformation:
    """Muon that takes convolutions, too: optax's own default leaves them to Adam."""
    as_matrices = functools.partial(jax.tree.map, _as_matrix)
    return optax.contrib.muon(learning_rate, muon_weight_dimension_numbers=as_matrices)


def _as_matrix(theta: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes are inputs and outputs of a kernel of Flax; None of a vector."""
    if theta.ndim < 2:
        return None
    *inputs, output = range(theta.ndim)
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), output)


def _constant(learning_rate: Any, num_steps: Any) -> Schedule:
    del num_steps
    return lambda count: jnp.asarray(learning_rate, jnp.float32)


# Of a run of one step, whose time goes in shares: optax's schedules take no traced number of steps.


def _linear(learning_rate: Any, num_steps: Any) -> Schedule:
    whole = optax.linear_schedule(learning_rate, 0.0, 1)
    return lambda count: whole(count / num_steps)


def _cosine(learning_rate: Any, num_steps: Any) -> Schedule:
    whole = optax.cosine_decay_schedule(learning_rate, 1)
    return lambda count: whole(count / num_steps)


def _without_schedule(make: Callable, num_steps: Any) -> optax.GradientTransformation:
    del num_steps
    return make()


def _tuned(
    about: str,
    make: Callable,
    decays: dict[str, Callable],
    rates: tuple[float, ...],
    refine: bool = False,
) -> Optimizer:
    built = {name: WithRate(make, decay) for name, decay in decays.items()}
    return Optimizer(about, TUNED, decays=built, rates=rates, refine=refine)


def _frozen(
    about: str,
    make: Callable,
    learning_rate: float,
) -> Optimizer:
    build = functools.partial(WithRate(make, _cosine), learning_rate)
    return Optimizer(about, FROZEN, build, scheduled=True)


def _plain(about: str, make: Callable) -> Optimizer:
    return Optimizer(about, FROZEN, functools.partial(_without_schedule, make))


# All other hyperparameters are optax's defaults.
OPTIMIZERS: dict[str, Optimizer] = {
    ADAM: _tuned(
        "Adam, its rate tuned for each task", optax.adam, {CONSTANT: _constant}, OCTAVES, True
    ),
    ADAMW: _tuned(
        "AdamW with cosine decay, its rate tuned for each task",
        optax.adamw,
        {"cosine": _cosine},
        OCTAVES,
        True,
    ),
    MUON: _tuned(
        "Muon, its rate and its decay tuned for each task",
        optax.contrib.muon,
        {CONSTANT: _constant, "linear": _linear, "cosine": _cosine},
        MUON_RATES,
    ),
    MUON_OF_KERNELS: _tuned(
        "Muon that orthogonalises convolutions, too, tuned for each task",
        _muon_of_kernels,
        {"linear": _linear, "cosine": _cosine},
        MUON_RATES,
    ),
    "adamw": _frozen("AdamW at 1e-3 with cosine decay", optax.adamw, 1e-3),
    "muon": _frozen("Muon at 0.02 with cosine decay", optax.contrib.muon, 0.02),
    "lion": _frozen("Lion at 1e-4 with cosine decay", optax.lion, 1e-4),
    "schedule-free": _plain("schedule-free AdamW", optax.contrib.schedule_free_adamw),
    "prodigy": _plain("Prodigy", optax.contrib.prodigy),
    "dowg": _plain("DoWG", optax.contrib.dowg),
    ABLATION: Optimizer(
        "general with nothing learned: Nesterov's momentum in the network's place",
        LEARNED,
        functools.partial(_ablated, 1.0),
        scheduled=True,
    ),
    SHORTER: Optimizer(
        "the same, its steps 0.8 times as long",
        LEARNED,
        functools.partial(_ablated, 0.8),
        scheduled=True,
    ),
    OURS: Optimizer(
        "general, the optimizer that ships: learned on tiny networks",
        LEARNED,
        _learned,
        scheduled=True,
    ),
}


def of_kind(kind: str) -> list[str]:
    """The names of all optimizers of a kind."""
    return [name for name, optimizer in OPTIMIZERS.items() if optimizer.kind == kind]


def chosen(names: list[str]) -> dict[str, Optimizer]:
    """Some optimizers in the suite's order.

    Args:
      names: of optimizers, of kinds, or "all".

    Raises:
      ValueError: for an unknown name, or none.
    """
    known = [*OPTIMIZERS, TUNED, FROZEN, LEARNED, "all"]
    if not names:
        raise ValueError(
            f"--optimizers must name at least one, got none: one of {', '.join(known)}."
        )
    wanted = {_checks.choice("optimizer", name, known) for name in names}
    return {
        name: optimizer
        for name, optimizer in OPTIMIZERS.items()
        if wanted & {name, optimizer.kind, "all"}
    }
