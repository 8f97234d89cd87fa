"""Several runs side by side: trials of a search, or seeds, and the programs of all of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from learned_opt import devices
from learned_opt.devices import PROBLEMS, TRIALS, WHOLE, Shards
from learned_opt.meta import episode, programs
from learned_opt.meta.episode import MetaState, Plan
from learned_opt.optimizers.base import Phi


class Lift(NamedTuple):
    """How many runs are in a program, and how they are side by side; static under jit.

    Attributes:
      transform: `jax.vmap`, or what stands in its place.
      key_axis: 0 where every run has a key of its own, None where all have the same.
      axes: of a mesh, for the first axes of a state.
    """

    transform: Callable[..., Callable]
    key_axis: int | None
    axes: tuple

    def spec_of_key(self) -> PartitionSpec:
        """Over which axes of a mesh the key is cut, and whatever else every run has of its own."""
        return PartitionSpec() if self.key_axis is None else PartitionSpec(*self.axes)

    def specs(self, shards: Shards) -> Any:
        """Over which axes of a mesh a state is cut."""
        whole: Any = PartitionSpec(*self.axes)
        specs = MetaState(*[whole] * len(MetaState._fields))
        if shards.num == 1:  # lives have no axis of shards
            return specs
        of_shards: Any = PartitionSpec(*self.axes, PROBLEMS)
        return specs._replace(lives=of_shards)


def _alone(function: Callable, in_axes: Any = 0) -> Callable:
    """In the place of `jax.vmap`, for one run alone."""
    del in_axes
    return function


def _in_turn(function: Callable, in_axes: Any = 0) -> Callable:
    """In the place of `jax.vmap`: one after the other, so that each has the bits of one alone."""

    def every(*args: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        mapped = [arg for arg, axis in zip(args, axes, strict=True) if axis is not None]

        def one(i: jax.Array, *own: Any) -> Any:
            del i
            rest = iter(own)
            return function(
                *(arg if axis is None else next(rest) for arg, axis in zip(args, axes, strict=True))
            )

        num = jax.tree.leaves(mapped)[0].shape[0]
        return devices.in_turn(one, num, *mapped)

    return every


ALONE = Lift(_alone, None, ())
TRIALS_AT_ONCE = Lift(jax.vmap, None, (None,))  # of a search, on one device
TRIALS_IN_TURN = Lift(_in_turn, None, (TRIALS,))  # of a search; each device has some
SEEDS = Lift(_in_turn, 0, (TRIALS,))


@functools.partial(programs.jit, static_argnums=(0, 1))
def begun(
    plan: Plan,
    lift: Lift,
    families: tuple,
    key: jax.Array,
    phi: Phi,
    learning_rate: jax.Array,
) -> MetaState:
    """`episode.init` of every run, each with its own learning rate."""

    def every(
        families: tuple,
        key: jax.Array,
        phi: Phi,
        learning_rate: jax.Array,
    ) -> MetaState:
        one = functools.partial(episode.init, plan, families)
        axes = lift.key_axis, lift.key_axis, 0
        return lift.transform(one, in_axes=axes)(key, phi, learning_rate)

    own = lift.spec_of_key()
    rates = PartitionSpec(*lift.axes)
    cut = WHOLE, own, own, rates
    mapped = plan.shards.over_devices(every, cut, lift.specs(plan.shards))
    return mapped(families, key, phi, learning_rate)


@functools.partial(programs.jit, static_argnums=(0, 1), donate_argnums=(7,))
def windows(
    plan: Plan,
    lift: Lift,
    families: tuple,
    key: jax.Array,
    weights: jax.Array,
    first: jax.Array,
    num: jax.Array,
    state: MetaState,
) -> MetaState:
    """`episode.run` of every run. Those that have keys of their own have `num` of their own."""
    run = functools.partial(episode.run, plan)
    axes = None, lift.key_axis, None, None, lift.key_axis, 0
    specs = lift.specs(plan.shards)
    own = lift.spec_of_key()
    cut = WHOLE, own, WHOLE, WHOLE, own, specs
    every = plan.shards.over_devices(lift.transform(run, in_axes=axes), cut, specs)
    return every(families, key, weights, first, num, state)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def end_epoch(
    plan: Plan,
    lift: Lift,
    num_validation: int,
    families: tuple,
    key: jax.Array,
    state: MetaState,
) -> tuple[jax.Array, jax.Array, MetaState]:
    """`episode.end_epoch` of every run."""

    def one(
        families: tuple,
        key: jax.Array,
        state: MetaState,
    ) -> tuple[jax.Array, jax.Array, MetaState]:
        return episode.end_epoch(plan, families, key, num_validation, state)

    specs = lift.specs(plan.shards)
    of_run = PartitionSpec(*lift.axes)
    cut = WHOLE, lift.spec_of_key(), specs
    lifted = lift.transform(one, in_axes=(None, lift.key_axis, 0))
    return plan.shards.over_devices(lifted, cut, (of_run, of_run, specs))(families, key, state)


@functools.partial(programs.jit, static_argnums=(0, 1, 2))
def validate_first(
    plan: Plan,
    lift: Lift,
    num_validation: int,
    families: tuple,
    key: jax.Array,
    state: MetaState,
) -> MetaState:
    """`episode.validate_first` of every run."""

    def one(
        families: tuple,
        key: jax.Array,
        state: MetaState,
    ) -> MetaState:
        return episode.validate_first(plan, families, key, num_validation, state)

    specs = lift.specs(plan.shards)
    cut = WHOLE, lift.spec_of_key(), specs
    lifted = lift.transform(one, in_axes=(None, lift.key_axis, 0))
    return plan.shards.over_devices(lifted, cut, specs)(families, key, state)
