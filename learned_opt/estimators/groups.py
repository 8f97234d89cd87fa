"""How the adjoint method lays out an optimizee: as vectors of coordinates wherever it can.

A coordinatewise optimizer does not see the shape of its parameters, nor whether coordinates belong
to one problem or to several. So all coordinates that follow one rule, of all parameters and all
problems, become one vector. A step is then one matrix product instead of one for each parameter,
and the second pass can cut the vector into blocks wherever it likes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.optimizees.base import Theta
from learned_opt.optimizers.base import LearnedOptimizer, Parts, Phi, reads_of


class Group(NamedTuple):
    """Parameters (leaves of theta) that one optimizer updates together.

    Attributes:
      opt: the `LearnedOptimizer`.
      labels: where its weights are in phi, a path of labels.
      leaves: positions of the leaves in theta's flattened order.
      tree: None where the leaves become one vector; else what makes a tree of the list of leaves.
      reads_theta: whether an update reads theta.
    """

    opt: LearnedOptimizer
    labels: tuple
    leaves: tuple
    tree: Callable[[list], Any] | None
    reads_theta: bool

    def phi(self, phi: Phi) -> Phi:
        """This group's weights."""
        for label in self.labels:
            phi = phi[label]
        return phi

    def transform(self, phi: Phi) -> optax.GradientTransformationExtraArgs:
        """This group's transformation, from all weights, lifted over problems where it needs it."""
        return lifted(self, self.opt.transform(self.phi(phi)))

    def pack(self, leaves: list) -> Any:
        """From theta's leaves `[problems, *shape]` to what this group's optimizer sees."""
        mine = [leaves[i] for i in self.leaves]
        if self.tree:
            return self.tree(mine)
        return jnp.concatenate([x.reshape(-1) for x in mine])

    def unpack(self, packed: Any, like: list) -> Iterable[tuple[int, jax.Array]]:
        """From updates as the optimizer gives them to pairs of position and leaf.

        `like` has theta's leaves.
        """
        if self.tree:
            return zip(self.leaves, jax.tree.leaves(packed), strict=True)
        ends = np.cumsum([like[i].size for i in self.leaves])
        parts = jnp.split(packed, ends[:-1])
        return [
            (i, part.reshape(like[i].shape)) for i, part in zip(self.leaves, parts, strict=True)
        ]


def lifted(group: Group, tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The group's transformation over all problems at once.

    A vector of coordinates holds all problems already; a tree has them on the first axis of each
    leaf. The parameters are handed on only where they are read.
    """

    def update(
        gradient: Any,
        state: Any,
        theta: Any = None,
    ) -> tuple[Any, Any]:
        if not group.reads_theta:
            return tx.update(gradient, state)
        return tx.update(gradient, state, theta)

    if group.tree is None:
        return optax.GradientTransformationExtraArgs(tx.init, update)
    in_axes = (0, 0, 0 if group.reads_theta else None)
    return optax.GradientTransformationExtraArgs(
        jax.vmap(tx.init),
        lambda g, state, theta=None: jax.vmap(update, in_axes)(g, state, theta),
    )


def groups_of(opt: LearnedOptimizer, theta: Theta) -> list[Group]:
    """The groups of one problem's parameters under an optimizer.

    Args:
      opt: the optimizer.
      theta: the parameters, arrays or shapes.

    Returns:
      One `Group` for each label and dtype where parts are coordinatewise, one for each label
      elsewhere.
    """
    leaves, treedef = jax.tree.flatten(theta)
    positions = treedef.unflatten(range(len(leaves)))
    return list(_groups(opt, positions, leaves, ()))


def sizes(groups: list[Group], theta: Theta) -> list[int]:
    """How many coordinates are in each group's vector; 0 for a group that is no vector.

    Args:
      groups: the groups.
      theta: the parameters, arrays or shapes.
    """
    leaves = jax.tree.leaves(theta)
    return [0 if group.tree else sum(leaves[i].size for i in group.leaves) for group in groups]


def _groups(
    opt: LearnedOptimizer,
    positions: Any,
    leaves: list,
    labels: tuple,
) -> Iterator[Group]:
    if opt.parts is not None:
        yield from _groups_of_parts(opt.parts, positions, leaves, labels)
        return
    mine = jax.tree.leaves(positions)
    shapes = jax.tree.map(lambda i: leaves[i], positions)
    reads_theta = "params" in reads_of(opt, shapes)
    if not opt.coordinatewise:
        if mine:
            tree = jax.tree.structure(positions).unflatten
            yield Group(opt, labels, tuple(mine), tree, reads_theta)
        return
    filled = [i for i in mine if leaves[i].size]
    for dtype in sorted({leaves[i].dtype for i in filled}, key=str):
        of_dtype = tuple(i for i in filled if leaves[i].dtype == dtype)
        yield Group(opt, labels, of_dtype, None, reads_theta)


def _groups_of_parts(
    parts: Parts,
    positions: Any,
    leaves: list,
    labels: tuple,
) -> Iterator[Group]:
    names = parts.label_fn(jax.tree.map(lambda i: leaves[i], positions))
    names = jax.tree.broadcast(names, positions)
    for label in sorted(parts.optimizers):
        masked = jax.tree.map(
            lambda i, name, label=label: i if name == label else optax.MaskedNode(),
            positions,
            names,
        )
        yield from _groups(parts.optimizers[label], masked, leaves, (*labels, label))
