"""The adjoint method for optimizees whose parameters no single device holds.

The parameters lie on a mesh as a user of large models lays them, on one axis of it or on several.
The optimizer's state and the recorded gradients lie there in the same way, so an update is computed
where its coordinates are, and nothing is communicated for it. What the optimizee itself needs (to
gather its parameters layer by layer, say) XLA puts into its loss and gradient, as in any training.

The second pass runs on every device over the coordinates that it has. Their products are added once
a window.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learned_opt import _checks, devices
from learned_opt.estimators import adjoint, base, second_pass
from learned_opt.estimators import groups as groups_lib
from learned_opt.estimators.adjoint import AdjointLives
from learned_opt.estimators.drawing import Drawn
from learned_opt.estimators.groups import Group
from learned_opt.optimizees import base as optimizee_base
from learned_opt.optimizees.base import Family, Theta
from learned_opt.optimizers.base import LearnedOptimizer, Phi

Layout = Callable[[str, tuple[int, ...]], PartitionSpec]


@dataclasses.dataclass(frozen=True)
class Sharded:
    """The exact meta-gradient of `Adjoint`, for parameters that are sharded over a mesh.

    It serves optimizers that are coordinatewise, and partitions of such. `shards` of meta-training
    stay at one: the devices share a problem here, and not the problems. The sum over coordinates is
    cut as the devices are, so its last bits depend on how many there are.

    Attributes:
      mesh: a mesh of Auto axes.
      layout: `layout(name, shape) -> PartitionSpec`, how a parameter lies on the mesh. The name is
        its place in theta, like "params/dense/kernel". A function of a module, so that two equal
        estimators share their programs.
      window: steps of one window.
      block_size: how many coordinates are differentiated at a time on a device; None chooses.

    Raises:
      ValueError: for sizes that are not positive whole numbers, or a mesh of other axes.

    Example:
      >>> import jax
      >>> from jax.sharding import AxisType, PartitionSpec
      >>> from learned_opt import estimators
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
      >>> def layout(name, shape):
      ...     return PartitionSpec("data", "model") if len(shape) == 2 else PartitionSpec()
      >>> estimators.Sharded(mesh, layout, window=5).window
      5
    """

    mesh: Mesh
    layout: Layout
    window: int = 20
    block_size: int | None = None

    def __post_init__(self) -> None:
        _checks.positive_int("window", self.window)
        if self.block_size is not None:
            _checks.positive_int("block_size", self.block_size)
        _checks.instance_of("mesh", self.mesh, Mesh, "make one with jax.make_mesh.")
        if any(kind != jax.sharding.AxisType.Auto for kind in self.mesh.axis_types):
            raise ValueError(
                f"mesh must have Auto axes, got {self.mesh.axis_types}: make it with "
                "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * number)."
            )

    def check(
        self,
        opt: LearnedOptimizer,
        family: Family,
        key: jax.Array,
        num_steps: int,
    ) -> None:
        """Raises ValueError for an optimizer or a layout that is not possible.

        See `base.Estimator`.
        """
        base.check_horizon(self.window, num_steps)
        base.refuse_reading("Sharded", ("params", "value"), opt, family, key)
        theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
        for group in groups_lib.groups_of(opt, theta):
            if group.tree is not None:
                raise ValueError(
                    "Sharded needs an optimizer that is coordinatewise, or a partition of such: "
                    "take Adjoint for others."
                )
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
            self._check_leaf(_checks.leaf_name(path), leaf.shape)

    def _check_leaf(self, name: str, shape: tuple[int, ...]) -> None:
        spec = self.layout(name, shape)
        _checks.instance_of(f"layout of {name}", spec, PartitionSpec, "return a PartitionSpec.")
        if len(spec) > len(shape):
            raise ValueError(f"the layout of {name} must have at most {len(shape)} axes: {spec}.")
        for size, names in zip(shape, spec, strict=False):
            devices.check_axes(self.mesh, _names(names))
            parts = int(np.prod([self.mesh.shape[axis] for axis in _names(names)]))
            if size % parts:
                raise ValueError(
                    f"the layout of {name} cuts an axis of {size} into {parts} parts: {spec} must "
                    "name axes of the mesh that divide it."
                )

    def begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        num_steps: int,
    ) -> AdjointLives:
        """Fresh problems, one for each of `keys`; see `base.Estimator`."""
        return self._begin(opt, phi, family, keys, base.count(num_steps))

    def run(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AdjointLives,
        key: jax.Array,
        weights: jax.Array,
        done: jax.Array | float = 0.0,
    ) -> base.Estimate:
        """A window and its meta-gradient; see `base.Estimator`."""
        del done
        num_problems = lives.first.shape[0]

        def fresh() -> AdjointLives:
            keys = jax.random.split(key, num_problems)
            return self._begin(opt, phi, family, keys, lives.horizon)

        lives = base.renewed(lives.t >= lives.horizon, fresh, lives)
        return self._window(opt, phi, family, lives, weights)

    def plain(self, family: Family, key: jax.Array) -> dict:
        """As JSON can hold it: the mesh, on which the last bits depend, and the layout of theta.

        See `base.Estimator`.
        """
        theta = jax.eval_shape(optimizee_base.begin, family, key).theta_0
        layout = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
            name = _checks.leaf_name(path)
            spec = self.layout(name, leaf.shape)
            layout[name] = [list(_names(names)) for names in spec]
        return base.plain_of(self, mesh=dict(self.mesh.shape), layout=layout)

    def _begin(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        keys: jax.Array,
        horizon: jax.Array,
    ) -> AdjointLives:
        problems, theta = base.stacked(family, keys)
        theta = self._laid(theta)
        leaves = jax.tree.leaves(theta)
        states = []
        for group in adjoint.groups_for(opt, theta):
            tx = group.opt.transform(group.phi(phi))
            states.append([tx.init(leaves[i]) for i in group.leaves])
        t = base.count(0)
        first, gradient, statistics = adjoint.first_of(family, problems, theta, t)
        return AdjointLives(
            problems, t, horizon, theta, statistics, states, self._laid(gradient), first
        )

    def _window(
        self,
        opt: LearnedOptimizer,
        phi: Phi,
        family: Family,
        lives: AdjointLives,
        weights: jax.Array,
    ) -> base.Estimate:
        groups = adjoint.groups_for(opt, lives.theta)
        is_shared = family.target is None and family.shape is None

        def step(lives: AdjointLives, _: None) -> tuple[AdjointLives, tuple]:
            updates, states = _apply(groups, phi, lives)
            theta = self._laid(optax.apply_updates(lives.theta, updates))
            t = lives.t + 1
            measured = adjoint.measure(family, lives, theta, t)
            slopes = () if is_shared else self._laid(measured.slope)
            after = lives._replace(
                t=t,
                theta=theta,
                statistics=measured.statistics,
                states=states,
                gradient=self._laid(measured.gradient),
            )
            return after, (measured.term, lives.gradient, slopes)

        after, (losses, gradients, slopes) = jax.lax.scan(step, lives, length=weights.shape[0])
        weights = weights / losses.shape[1]
        last = after.gradient if is_shared else ()
        pulled = self._pull_back(groups, phi, lives.states, gradients, slopes, last, weights)
        return base.Estimate(losses, pulled, after)

    def _pull_back(
        self,
        groups: list[Group],
        phi: Phi,
        states: list,
        gradients: Theta,
        slopes: Theta,
        last: Theta,
        weights: jax.Array,
    ) -> Phi:
        """The second pass, of every device over its own coordinates, and the sum over devices."""
        specs = self._specs(gradients, 2)
        of_steps = [PartitionSpec(None, None, *spec) for spec in specs]
        of_last = [PartitionSpec(None, *spec) for spec in specs]
        copies = [self._copies(spec) for spec in specs]
        is_shared = not jax.tree.leaves(slopes)

        def on_device(
            phi: Phi,
            states: list,
            gradients: list,
            slopes: list,
            last: list,
            weights: jax.Array,
        ) -> Phi:
            recorded = []
            for group, own_states in zip(groups, states, strict=True):
                vectors = _vectors(gradients, group)
                of_leaf = [1 / copies[i] for i in group.leaves]
                counts = [
                    jnp.full(gradients[i][0].size, count)
                    for i, count in zip(group.leaves, of_leaf, strict=True)
                ]
                of_steps: Any = _vectors(slopes, group) if not is_shared else vectors
                if is_shared:
                    own = jnp.concatenate([last[i].reshape(-1) for i in group.leaves])
                    of_steps = adjoint.Shifted(vectors, own)
                cotangents = functools.partial(
                    adjoint.cotangents_of, of_steps, weights, adjoint.accumulated
                )
                one = second_pass.Recorded(
                    group=group,
                    # What several devices have counts once.
                    drawn=Drawn(None, jnp.concatenate(counts)),
                    state=_state_of(group, phi, own_states, gradients),
                    theta=(),
                    gradients=vectors,
                    cotangents=cotangents,
                )
                recorded.append(one)
            pulled = second_pass.pull_back(phi, recorded, self.block_size)
            return devices.total(pulled, self.mesh.axis_names)

        whole = PartitionSpec()
        state_specs = [
            [
                jax.tree.map(functools.partial(_state_spec, spec=specs[i], ndim=ndim), state)
                for i, state, ndim in _of_leaves(group, own_states, gradients)
            ]
            for group, own_states in zip(groups, states, strict=True)
        ]
        in_specs = (
            whole,
            state_specs,
            of_steps,
            [] if is_shared else of_steps,
            of_last if is_shared else [],
            whole,
        )
        mapped = jax.shard_map(
            on_device, mesh=self.mesh, in_specs=in_specs, out_specs=whole, check_vma=False
        )
        leaves = jax.tree.leaves
        return mapped(phi, states, leaves(gradients), leaves(slopes), leaves(last), weights)

    def _specs(self, theta: Theta, num_before: int) -> list[PartitionSpec]:
        """The layout of every leaf, which has some axes before those of the parameter."""
        specs = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
            specs.append(self.layout(_checks.leaf_name(path), leaf.shape[num_before:]))
        return specs

    def _laid(self, theta: Theta) -> Theta:
        """A tree like theta, leaves `[problems, *shape]`, as the layout says."""
        leaves, treedef = jax.tree.flatten(theta)
        laid = []
        for leaf, spec in zip(leaves, self._specs(theta, 1), strict=True):
            sharding = NamedSharding(self.mesh, PartitionSpec(None, *spec))
            laid.append(jax.lax.with_sharding_constraint(leaf, sharding))
        return treedef.unflatten(laid)

    def _copies(self, spec: PartitionSpec) -> int:
        """How many devices have the same part of a leaf."""
        cut = [self.mesh.shape[axis] for names in spec for axis in _names(names)]
        return self.mesh.size // int(np.prod(cut, initial=1))


def _names(names: Any) -> tuple[str, ...]:
    """The axes of the mesh over which one axis of a leaf is cut."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def _apply(groups: list[Group], phi: Phi, lives: AdjointLives) -> tuple[Theta, list]:
    """One step of the optimizer, leaf by leaf where the leaves are: `(updates, states)`."""
    gradients, treedef = jax.tree.flatten(lives.gradient)
    updates = [jnp.zeros_like(g) for g in gradients]
    states = []
    for group, own_states in zip(groups, lives.states, strict=True):
        tx = group.opt.transform(group.phi(phi))
        new = []
        for i, state in zip(group.leaves, own_states, strict=True):
            updates[i], state = tx.update(gradients[i], state)
            new.append(state)
        states.append(new)
    return treedef.unflatten(updates), states


def _vectors(leaves: list, group: Group) -> jax.Array:
    """The leaves `[T, problems, *shape]` of a group as one array `[T, coordinates]`."""
    return jnp.concatenate(
        [leaves[i].reshape(leaves[i].shape[0], -1) for i in group.leaves], axis=1
    )


def _of_leaves(group: Group, states: list, gradients: Theta) -> list[tuple[int, Any, int]]:
    """Of each leaf of a group: its position, its state, and its rank without steps."""
    leaves = jax.tree.leaves(gradients)
    return [(i, s, leaves[i].ndim - 1) for i, s in zip(group.leaves, states, strict=True)]


def _state_spec(leaf: jax.Array, spec: PartitionSpec, ndim: int) -> PartitionSpec:
    """How a part of a state lies on the mesh: features first, then what the parameter has."""
    if leaf.ndim < ndim:  # all coordinates share it
        return PartitionSpec()
    return PartitionSpec(*(None,) * (leaf.ndim - ndim), None, *spec)


def _state_of(
    group: Group,
    phi: Phi,
    states: list,
    gradients: list,
) -> Any:
    """The states of a group's leaves as that of one vector of coordinates."""
    tx = group.opt.transform(group.phi(phi))
    like = jax.ShapeDtypeStruct((1,), gradients[group.leaves[0]].dtype)
    axes = second_pass.coordinate_axes(tx, like)
    treedef = jax.tree.structure(states[0])
    together = []
    for axis, *parts in zip(axes, *map(jax.tree.leaves, states), strict=True):
        if axis is None:
            together.append(parts[0])
            continue
        flat = [part.reshape(*part.shape[:axis], -1) for part in parts]
        together.append(jnp.concatenate(flat, axis=axis))
    return treedef.unflatten(together)
