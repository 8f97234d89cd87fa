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


class Jitted:
    """A function that `jit` has decorated."""

    def __init__(
        self,
        function: Callable,
        static_argnums: tuple[int, ...],
        donate_argnums: tuple[int, ...],
    ):
        functools.update_wrapper(self, function)
        self._function = function
        self._static_argnums = static_argnums
        self._donate_argnums = donate_argnums

    def __call__(self, *args: Any) -> Any:
        """Calls the program of these arguments, which is compiled where it is not there."""
        return self.program(*args)(*self._dynamic(args))

    def program(self, *args: Any) -> Callable:
        """The jitted function of those arguments that are not static.

        It spares many calls the search, and it can be lowered.
        """
        static = {position: args[position] for position in self._static_argnums}
        key = self, tuple(static.items()), _shapes(self._dynamic(args))
        return _kept(key, lambda: _compiled_anew(self._function, static, self._donate_argnums))

    def _dynamic(self, args: tuple) -> list:
        return [arg for position, arg in enumerate(args) if position not in self._static_argnums]


def jit(
    function: Callable,
    static_argnums: tuple[int, ...] = (),
    donate_argnums: tuple[int, ...] = (),
) -> Jitted:
    """`jax.jit` whose programs count towards `MAX_PROGRAMS`.

    A program is one compilation: a function, its static arguments, and the tree, the shapes and the
    dtypes of the others. All arguments are positional.

    Args:
      function: a pure function.
      static_argnums: the positions of static arguments.
      donate_argnums: the positions of arguments whose memory the program may use again.

    Returns:
      The function, compiled when it is called. See `Jitted.program` for its jitted function.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> from learned_opt.meta import programs
      >>> @functools.partial(programs.jit, static_argnums=(0,))
      ... def power(exponent, x):
      ...     return x**exponent
      >>> print(power(3, jnp.float32(2)))
      8.0
    """
    return Jitted(function, static_argnums, donate_argnums)


def clear() -> None:
    """Drops every program that is kept."""
    with _lock:
        _programs.clear()


def count() -> int:
    """How many programs are kept, at most `MAX_PROGRAMS`."""
    return len(_programs)


def _shapes(args: list) -> Hashable:
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(_shape(leaf) for leaf in leaves)


def _shape(leaf: Any) -> tuple:
    return np.shape(leaf), getattr(leaf, "dtype", type(leaf))


def _kept(key: Hashable, make: Callable[[], Callable]) -> Callable:
    """The program of this key, made where it is not there; the least recently used one may go."""
    with _lock:
        if key not in _programs:
            _programs[key] = make()
        _programs.move_to_end(key)
        if len(_programs) > MAX_PROGRAMS:
            _programs.popitem(last=False)
        return _programs[key]


def _compiled_anew(
    function: Callable,
    static: dict[int, Any],
    donate_argnums: tuple[int, ...],
) -> Callable:
    """`jax.jit` of a function that nobody else holds: JAX frees what it compiled with it."""

    @functools.wraps(function)
    def fresh(*dynamic: Any) -> Any:
        args = list(dynamic)
        for position in sorted(static):
            args.insert(position, static[position])
        return function(*args)

    del fresh.__wrapped__  # its signature is another one
    donated = tuple(_among_dynamic(position, static) for position in donate_argnums)
    return jax.jit(fresh, donate_argnums=donated)


def _among_dynamic(position: int, static: dict[int, Any]) -> int:
    """An argument's position when the static ones are left out."""
    return position - sum(other < position for other in static)
