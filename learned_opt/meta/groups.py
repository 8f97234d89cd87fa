"""How the adjoint method lays out an optimizee: as vectors of coordinates wherever the optimizer allows it.

A coordinatewise optimizer does not see the shape of its parameters, nor whether coordinates belong to one problem or
to several. So all coordinates that follow one rule, of all parameters and all problems, become one vector: one matrix
product a step instead of one for each parameter, and a second pass that can cut it into blocks wherever it likes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.optimizers import base


class Group(NamedTuple):
    """Parameters (leaves of theta) that one optimizer updates together.

    Attributes:
      opt: the `LearnedOptimizer`.
      labels: where its weights are in phi, a path of labels.
      leaves: positions of the leaves in theta's flattened order.
      tree: None where the leaves become one vector; else what makes a tree of the list of leaves.
    """

    opt: base.LearnedOptimizer
    labels: tuple
    leaves: tuple
    tree: Any

    def phi(self, phi):
        """This group's weights."""
        for label in self.labels:
            phi = phi[label]
        return phi

    def pack(self, leaves):
        """From theta's leaves `[problems, *shape]` to what this group's optimizer sees."""
        mine = [leaves[i] for i in self.leaves]
        return self.tree(mine) if self.tree else jnp.concatenate([x.reshape(-1) for x in mine])

    def unpack(self, packed, like):
        """From updates as the optimizer gives them to `(position, leaf)` pairs; `like` has theta's leaves."""
        if self.tree:
            return zip(self.leaves, jax.tree.leaves(packed), strict=True)
        ends = np.cumsum([like[i].size for i in self.leaves])
        parts = jnp.split(packed, ends[:-1])
        return [
            (i, part.reshape(like[i].shape)) for i, part in zip(self.leaves, parts, strict=True)
        ]

    def init(self, phi, packed):
        """The optimizer's state at the beginning of a life."""
        tx = self.opt.transform(self.phi(phi))
        return (jax.vmap(tx.init) if self.tree else tx.init)(packed)

    def update(self, phi, gradient, state):
        """One step of the optimizer."""
        tx = self.opt.transform(self.phi(phi))
        return (jax.vmap(tx.update) if self.tree else tx.update)(gradient, state)


def groups_of(opt, theta):
    """The groups of one problem's parameters `theta` (arrays or shapes) under an optimizer.

    Returns:
      A list of `Group`: one for each label and dtype where parts are coordinatewise, one for each label otherwise.
    """
    leaves, treedef = jax.tree.flatten(theta)
    return list(_groups(opt, treedef.unflatten(range(len(leaves))), leaves, ()))


def sizes(groups, theta):
    """How many coordinates of `theta` (arrays or shapes) are in each group's vector; 0 for a group that is none."""
    leaves = jax.tree.leaves(theta)
    return [0 if group.tree else sum(leaves[i].size for i in group.leaves) for group in groups]


def _groups(opt, positions, leaves, labels):
    mine = jax.tree.leaves(positions)
    if opt.parts is not None:
        names = opt.parts.label_fn(jax.tree.map(lambda i: leaves[i], positions))
        names = jax.tree.broadcast(names, positions)
        for label in sorted(opt.parts.optimizers):
            masked = jax.tree.map(
                lambda i, n, label=label: i if n == label else optax.MaskedNode(), positions, names
            )
            yield from _groups(opt.parts.optimizers[label], masked, leaves, (*labels, label))
    elif opt.coordinatewise:
        for dtype in sorted({leaves[i].dtype for i in mine if leaves[i].size}, key=str):
            of_dtype = tuple(i for i in mine if leaves[i].dtype == dtype and leaves[i].size)
            yield Group(opt, labels, of_dtype, None)
    elif mine:
        yield Group(opt, labels, tuple(mine), jax.tree.structure(positions).unflatten)
