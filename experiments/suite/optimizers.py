"""What the suite compares: rivals that are tuned, rivals with one setting, and ours."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import learned_opt
from learned_opt import _checks
from learned_opt.meta.unrolling import Transformation

OURS, ABLATION = "general", "general-ablated"
ADAM, ADAMW, MUON = "adam-tuned", "adamw-tuned", "muon-tuned"
CONSTANT = "constant"  # the decay that is none
TUNED, FROZEN, LEARNED = "tuned", "frozen", "learned"

# Octaves, then half-octaves around the best one until it lies between two that are worse: about
# fifteen rates in all. Where the best rate of a grid lies at its end, the grid is extended.
OCTAVES = tuple(2.0**k for k in range(-13, 0))
MUON_RATES = tuple(0.0025 * 2**k for k in range(7))


class Optimizer(NamedTuple):
    """One optimizer of the suite.

    Attributes:
      about: what it is, in words.
      kind: `TUNED`, `FROZEN` or `LEARNED`.
      build: `build(num_steps) -> Transformation`; None for what is tuned.
      scheduled: whether `num_steps` changes what it does. Runs of several lengths are then runs of
        their own.
      decays: of what is tuned, dict from name to `build(learning_rate, num_steps)`. The best one is
        chosen together with its rate.
      rates: that it is tuned over.
      refine: whether half-octaves around the best rate are tried.
    """

    about: str
    kind: str
    build: Callable[[int], Transformation] | None = None
    scheduled: bool = False
    decays: dict[str, Callable] | None = None
    rates: tuple[float, ...] = ()
    refine: bool = False


def _learned(num_steps: int) -> Transformation:
    """Ours."""
    opt, phi = learned_opt.load_pretrained(OURS)
    return learned_opt.general(**{**opt.spec["args"], "num_steps": num_steps}), phi


def _ablated(num_steps: int) -> Transformation:
    """Ours with nothing learned: Nesterov's momentum where the network stands, no controller."""
    opt = learned_opt.general(num_steps=num_steps, hidden_sizes=(), controller_sizes=())
    return opt, opt.init(jax.random.key(0))


def _adam(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adam(learning_rate)


def _adamw_cosine(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, num_steps))


def _muon_constant(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.contrib.muon(learning_rate)


def _muon_linear(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    return optax.contrib.muon(optax.linear_schedule(learning_rate, 0.0, num_steps))


def _muon_cosine(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    return optax.contrib.muon(optax.cosine_decay_schedule(learning_rate, num_steps))


def _lion_cosine(learning_rate: Any, num_steps: int) -> optax.GradientTransformation:
    return optax.lion(optax.cosine_decay_schedule(learning_rate, num_steps))


def _without_schedule(make: Callable, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return make()


def _frozen(
    about: str,
    build: Callable,
    learning_rate: float,
) -> Optimizer:
    return Optimizer(about, FROZEN, functools.partial(build, learning_rate), scheduled=True)


def _plain(about: str, make: Callable) -> Optimizer:
    return Optimizer(about, FROZEN, functools.partial(_without_schedule, make))


# All other hyperparameters are optax's defaults.
OPTIMIZERS: dict[str, Optimizer] = {
    ADAM: Optimizer(
        "Adam, its rate tuned for each task",
        TUNED,
        decays={CONSTANT: _adam},
        rates=OCTAVES,
        refine=True,
    ),
    ADAMW: Optimizer(
        "AdamW with cosine decay, its rate tuned for each task",
        TUNED,
        decays={"cosine": _adamw_cosine},
        rates=OCTAVES,
        refine=True,
    ),
    MUON: Optimizer(
        "Muon, its rate and its decay tuned for each task",
        TUNED,
        decays={CONSTANT: _muon_constant, "linear": _muon_linear, "cosine": _muon_cosine},
        rates=MUON_RATES,
    ),
    "adamw": _frozen("AdamW at 1e-3 with cosine decay", _adamw_cosine, 1e-3),
    "muon": _frozen("Muon at 0.02 with cosine decay", _muon_cosine, 0.02),
    "lion": _frozen("Lion at 1e-4 with cosine decay", _lion_cosine, 1e-4),
    "schedule-free": _plain("schedule-free AdamW", optax.contrib.schedule_free_adamw),
    "prodigy": _plain("Prodigy", optax.contrib.prodigy),
    "dowg": _plain("DoWG", optax.contrib.dowg),
    ABLATION: Optimizer(
        "general with nothing learned: Nesterov's momentum in the network's place",
        LEARNED,
        _ablated,
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
