"""Weights of the TensorFlow 1 code of the papers: the `.l2l` files.

The code of Andrychowicz et al. (2016), and the benchmarks that came out of it, wrote each network
as a pickled dictionary: the name of a Sonnet module, the name of a variable, an array. With `I`
inputs and `H` units:

    lstm_1, lstm_2, ..   w_gates [I + H, 4 * H]   b_gates [4 * H]
    linear               w [H, 1]                 b [1]
    input_projection     w [2, I]                 b [I]

The gates are in the order input, cell, forget, output, and the network adds one to the forget gate
when it uses it. Only RNNprop has an `input_projection`: it reads [m~, g~], and an ELU follows it.

The files do not hold the preprocessing and the scale that a network was trained with: the code had
them.
"""

import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks, _pickles, optimizers

# What the TensorFlow code had, by the number of features that a network reads. None is RNNprop.
DEFAULTS: dict[int | None, dict[str, Any]] = {
    1: {"preset": "quadratic"},
    2: {"preset": "mnist-code"},
    None: {"betas": (0.95, 0.95), "epsilon": 1e-8, "output_scale": 0.01},
}


def is_old(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a file that starts as a pickle, and not as a safetensors file."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as f:
        start = f.read(9)
    # A safetensors file starts with the length of a header, eight bytes, and the header is JSON.
    if start[8:] == b"{":
        return False
    return re.match(rb"\x80[\x02-\x05]|[(}]|c[a-z_]", start) is not None


def read(path: str | os.PathLike, **settings: Any) -> tuple[optimizers.LearnedOptimizer, Any]:
    """Reads a network that the TensorFlow 1 code has written.

    A network with an `input_projection` is RNNprop's. Its betas are taken to be 0.95, its epsilon
    1e-8 and its output scale 0.01, as in the benchmarks' code; the paper has a scale of 0.1. All
    others are LSTM optimizers. The preset is "mnist-code" (p = 5, output scale 0.01) for networks
    that read two features of a gradient, and "quadratic" for networks that read the gradient
    itself.

    The TensorFlow code adds 1.2e-7 to a gradient's absolute value before it takes the logarithm,
    and this library does not: with p = 5 the feature differs by less than 4e-6.

    Args:
      path: the file.
      **settings: arguments of `lstm` or `rnnprop`, for a network that was trained with others than
      these.

    Returns:
      `(opt, phi)`; the weights are float32.

    Raises:
      ValueError: if the file is truncated, or a pickle of anything but arrays; if the arrays are
        not those of a coordinatewise network whose state starts at zero; or if the settings do not
        fit them.
    """
    variables = _Variables(path)
    layers, num_inputs = _lstm_layers(variables)
    sizes = [layer["b"].size // 4 for layer in layers]
    phi = {"layers": layers, "output": _output(variables, sizes[-1])}
    args: dict[str, Any] = {"hidden_sizes": sizes}
    if variables.has("input_projection"):
        phi["input"] = _input(variables, num_inputs)
        args["input_size"] = num_inputs
        name, num_features = "rnnprop", None
    else:
        name, num_features = "lstm", num_inputs
    variables.check_all_taken()
    opt = _optimizer(path, name, args, settings, num_features)
    expected = jax.eval_shape(opt.init, jax.random.key(0))
    remedy = "give load the settings that the network was trained with."
    _checks.same_tree(
        f"the weights in {path}", phi, "an optimizer with these settings", expected, remedy
    )
    return opt, jax.tree.map(jnp.asarray, phi)


class _Variables:
    """The variables of a network, taken one after the other."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.arrays: dict[tuple[str, str], np.ndarray] = {}
        for keys, array in _pickles.read_arrays(path).items():
            place = _module_and_variable(keys)
            if place in self.arrays:
                raise ValueError(
                    f"{path} has {'/'.join(place)} more than once: give each network a file of "
                    "its own."
                )
            self.arrays[place] = array

    def has(self, module: str) -> bool:
        return any(module == other for other, _ in self.arrays)

    def take(
        self,
        module: str,
        variable: str,
        shape: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """Removes a variable and returns it in float32.

        Raises:
          ValueError: if there is none, or if it is not finite or of another shape than `shape`.
        """
        array = self.arrays.pop((module, variable), None)
        name = f"{module}/{variable}"
        if array is None:
            raise ValueError(
                f"{self.path} has no {name}: it lacks weights of a coordinatewise network."
            )
        if shape is not None and array.shape != shape:
            raise ValueError(
                f"{self.path} has {name} of shape {array.shape}, where a coordinatewise network "
                f"has {shape}."
            )
        if not _fits_float32(array):
            raise ValueError(
                f"{self.path} has {name} with entries that are not finite, or no float32."
            )
        return array.astype(np.float32)

    def check_all_taken(self) -> None:
        """Raises ValueError if there are variables that nobody took."""
        if not self.arrays:
            return
        places = sorted("/".join(place)[:80] for place in self.arrays)
        raise ValueError(
            f"{self.path} has weights that no optimizer here takes ({', '.join(places[:4])}): "
            "other layers, peepholes, batch normalization and trained initial states are not read."
        )


def _module_and_variable(keys: tuple[str, ...]) -> tuple[str, str]:
    """The last two parts of a name.

    Keys may also be whole names of TensorFlow, such as vars_optimizer/cw_deep_lstm/linear/w:0.
    """
    name = "/".join(keys).split(":")[0]
    module, _, variable = name.rpartition("/")
    return module.rpartition("/")[2], variable


def _fits_float32(array: np.ndarray) -> bool:
    if array.dtype.kind != "f":
        return False
    return bool(np.all(np.abs(array) <= np.finfo(np.float32).max))


def _lstm_layers(variables: _Variables) -> tuple[list[dict[str, np.ndarray]], int]:
    """All LSTM layers in this library's form, and the number of inputs of the first."""
    if not variables.has("lstm_1"):
        raise ValueError(
            f"{variables.path} has no lstm_1: it is no LSTM network of the TensorFlow code."
        )
    layer, num_inputs = _lstm_layer(variables, "lstm_1")
    layers = [layer]
    while variables.has(module := f"lstm_{len(layers) + 1}"):
        num_units_before = layers[-1]["b"].size // 4
        layer, num_layer_inputs = _lstm_layer(variables, module)
        if num_layer_inputs != num_units_before:
            raise ValueError(
                f"{variables.path} has {module} with {num_layer_inputs} inputs, where the layer "
                f"before has {num_units_before} units."
            )
        layers.append(layer)
    return layers, num_inputs


def _lstm_layer(variables: _Variables, module: str) -> tuple[dict[str, np.ndarray], int]:
    """The weights of one LSTM layer in this library's form, and its number of inputs."""
    w = variables.take(module, "w_gates")
    b = variables.take(module, "b_gates")
    num_units = b.size // 4
    is_layer = w.ndim == 2 and b.shape == (4 * num_units,) and w.shape[1] == b.size
    if not is_layer or not 0 < num_units < w.shape[0]:
        raise ValueError(
            f"{variables.path} has {module} with w_gates {w.shape} and b_gates {b.shape}, where an "
            "LSTM has [inputs + units, 4 * units] and [4 * units]."
        )
    layer = {"w": _reordered(w.T), "b": _reordered(b) + _forget_bias(num_units)}
    return layer, w.shape[0] - num_units


def _reordered(gates: np.ndarray) -> np.ndarray:
    """Brings the gates, parts of the first axis, into the order of `cell.lstm_cell`."""
    i, g, f, o = np.split(gates, 4)
    return np.concatenate([i, f, g, o])


def _forget_bias(num_units: int) -> np.ndarray:
    """What the TensorFlow code adds to the gates when it uses them, in this library's order."""
    return np.repeat(np.array([0, 1, 0, 0], np.float32), num_units)


def _output(variables: _Variables, num_units: int) -> dict[str, np.ndarray]:
    w = variables.take("linear", "w", (num_units, 1))
    b = variables.take("linear", "b", (1,))
    return {"w": w[:, 0], "b": b[0]}


def _input(variables: _Variables, num_inputs: int) -> dict[str, np.ndarray]:
    w = variables.take("input_projection", "w", (2, num_inputs))
    b = variables.take("input_projection", "b", (num_inputs,))
    return {"w": w.T, "b": b}


def _optimizer(
    path: str | os.PathLike,
    name: str,
    args: dict[str, Any],
    settings: dict[str, Any],
    num_features: int | None,
) -> optimizers.LearnedOptimizer:
    """Builds the optimizer; `num_features` is how many an LSTM reads, and None for RNNprop."""
    if num_features not in DEFAULTS:
        raise ValueError(
            f"{path} reads {num_features} features of a gradient, where the gradient itself is 1, "
            "and its logarithm and sign are 2."
        )
    in_file = sorted(set(settings) & {"hidden_sizes", "input_size"})
    if in_file:
        raise ValueError(
            f"{path} says itself what {' and '.join(in_file)} must be: leave that out."
        )
    defaults = {} if "preset" in settings else DEFAULTS[num_features]
    opt = optimizers.from_spec({"name": name, "args": {**args, **defaults, **settings}})
    assert opt.spec is not None, "an optimizer that was made from a spec has one"
    if num_features is not None:
        _check_num_features(path, num_features, opt.spec["args"].get("preprocess_p"))
    return opt


def _check_num_features(
    path: str | os.PathLike,
    num_features: int,
    preprocess_p: float | None,
) -> None:
    num_made = 1 if preprocess_p is None else 2
    if num_made != num_features:
        raise ValueError(
            f"{path} reads {num_features} features of a gradient, which "
            f"preprocess_p={preprocess_p} does not make: None makes 1, a number 2."
        )
