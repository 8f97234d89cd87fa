"""Compiled programs, of which a process keeps a bounded number.

`jax.jit` keeps every program for as long as the decorated function lives. A function of a module
lives as long as the process, and each compiled program holds memory maps, of which Linux allows
65,530. So a process that measures many optimizers, each of them a static argument, runs into that
limit. `programs.jit` is `jax.jit` for such functions: all functions decorated with it share one
cache, and the program that was used least recently is dropped with everything that it holds.

    @functools.partial(programs.jit, static_argnums=(0,), donate_argnums=(2,))
    def meta_step(opt, phi, state): ...

Weights belong among the arguments that are not static: then one program serves all of them. Static
arguments must be hashable and are compared by value, so equal optimizers share a program. They live
as long as their program.
"""

import collections
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

# Some hundred memory maps for each of the largest programs leave half of a process's maps free.
MAX_PROGRAMS = 128

_programs: collections.OrderedDict[Hashable, Callable] = collections.OrderedDict()
_lock = threading.Lock()


def jit(
    function: Callable, static_argnums: tuple[int, ...] = (), donate_argnums: tuple[int, ...] = ()
) -> Callable:
    """`jax.jit` whose programs count towards `MAX_PROGRAMS`.

    A program is one compilation: a function, its static arguments, and the tree, the shapes and the
    dtypes of the others. All arguments are positional.

    Args:
      function: a pure function.
      static_argnums: the positions of static arguments.
      donate_argnums: the positions of arguments whose memory the program may use again.

    Returns:
      The function, compiled when it is called. Its attribute `program(*args)` gives the jitted
      function for such arguments, for example to `lower` it.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> from learned_opt.meta import programs
      >>> @functools.partial(programs.jit, static_argnums=(0,))
      ... def power(exponent, x):
      ...     return x**exponent
      >>> print(power(3, jnp.float32(2)))
      8.0
    """

    def program(*args: Any) -> Callable:
        key = (function, static_argnums, donate_argnums, _key(args, static_argnums))
        return _program(key, function, static_argnums, donate_argnums)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return program(*args)(*args)

    call.program = program
    return call


def clear() -> None:
    """Drops every program that is kept."""
    with _lock:
        _programs.clear()


def count() -> int:
    """How many programs are kept, at most `MAX_PROGRAMS`."""
    return len(_programs)


def _key(args: tuple, static_argnums: tuple[int, ...]) -> Hashable:
    static = tuple(args[i] for i in static_argnums)
    others = [arg for i, arg in enumerate(args) if i not in static_argnums]
    leaves, structure = jax.tree.flatten(others)
    return static, structure, tuple(_shape(leaf) for leaf in leaves)


def _shape(leaf: Any) -> tuple:
    return np.shape(leaf), getattr(leaf, "dtype", type(leaf))


def _program(
    key: Hashable,
    function: Callable,
    static_argnums: tuple[int, ...],
    donate_argnums: tuple[int, ...],
) -> Callable:
    with _lock:
        program = _programs.get(key)
        if program is None:
            program = _compiled_anew(function, static_argnums, donate_argnums)
            _programs[key] = program
        _programs.move_to_end(key)
        if len(_programs) > MAX_PROGRAMS:
            _programs.popitem(last=False)
        return program


def _compiled_anew(
    function: Callable, static_argnums: tuple[int, ...], donate_argnums: tuple[int, ...]
) -> Callable:
    """`jax.jit` of a function that nobody else holds: JAX frees what it compiled with it."""

    @functools.wraps(function)
    def fresh(*args: Any) -> Any:
        return function(*args)

    return jax.jit(fresh, static_argnums=static_argnums, donate_argnums=donate_argnums)
