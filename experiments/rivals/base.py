"""What a task is: a family, the methods that an expert would take, and how accurate is enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from learned_opt.optimizees.base import Optimizee

Instances = Any  # a pytree of arrays with the instances on their first axis
Answers = Any  # a pytree of arrays with one answer for each instance


class Rival(NamedTuple):
    """A classical method, with a dial from quick to accurate.

    Attributes:
      name: as it stands in tables.
      efforts: what the dial can be set to, from quick to accurate; iterations as a rule.
      solve: `solve(effort) -> function`, where `function(instances) -> answers` for all instances
        together. What depends on the family alone, such as a step size, is computed in `solve`.
      batched: False for a library that takes one instance after the other; it is then measured on
        fewer of them.
    """

    name: str
    efforts: tuple
    solve: Callable[[Any], Callable[[Instances], Answers]]
    batched: bool = True


class Refinement(NamedTuple):
    """A classical method that goes on from a learned start.

    Attributes:
      name: as it stands in tables.
      efforts: as of a `Rival`.
      solve: `solve(effort) -> function`, where `function(instances, theta) -> answers` goes on from
        theta, parameters of the family with the instances on their first axis. It is traced.
    """

    name: str
    efforts: tuple
    solve: Callable[[Any], Callable[[Instances, Any], Answers]]


class Unrolled(NamedTuple):
    """A classical method of few steps, with numbers that are learned through all of them.

    Attributes:
      name: as it stands in tables.
      num_steps: how many.
      numbers: `numbers(key) -> numbers`, where learning begins.
      method: `method(numbers, instance) -> theta` of one instance; JAX can differentiate it.
      solve: `solve(numbers) -> function`, where `function(instances) -> answers` does the same for
        all instances together. It is jitted.
    """

    name: str
    num_steps: int
    numbers: Callable[[Any], Any]
    method: Callable[[Any, Any], Any]
    solve: Callable[[Any], Callable[[Instances], Answers]]


class Task(NamedTuple):
    """A family that is solved thousands of times.

    Attributes:
      family: the `Optimizee` that a solver is learned for. Its `loss` is deterministic: it reads
        no key.
      fresh: the same family on other data, which instances to be measured are drawn from.
      objective: `objective(answers, instances) -> [instances]`, float64 NumPy: what is minimized,
        of answers in the user's variables (`family.solution` of theta), in double precision.
      reference: `reference(instances) -> [instances]`, float64 NumPy: the objective at solutions
        that were computed to convergence in double precision.
      rivals: the methods to beat.
      tolerance: an instance is solved if (objective - reference) / scale is at most this.
      scale: `scale(reference) -> [instances]`: what the distance is measured in.
      why: one sentence for the page: why this accuracy is what practice asks for.
      refinement: what an expert would take to go on from a learned start; None for nothing. L-BFGS
        goes on from it in any case.
      unrolled: a method to learn the numbers of; None for none.
    """

    family: Optimizee
    fresh: Optimizee
    objective: Callable[[Answers, Instances], np.ndarray]
    reference: Callable[[Instances], np.ndarray]
    rivals: tuple[Rival, ...]
    tolerance: float
    scale: Callable[[np.ndarray], np.ndarray]
    why: str
    refinement: Refinement | None = None
    unrolled: Unrolled | None = None
