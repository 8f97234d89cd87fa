"""Weights of the TensorFlow 1 code of the papers: the `.l2l` files.

The first authors' code (Andrychowicz et al. 2016) and the benchmarks that came out of it wrote each network as a
pickled dictionary: the name of a Sonnet module, the name of a variable, an array. With `I` inputs and `H` units:

    lstm_1, lstm_2, ..   w_gates [I + H, 4 * H]   b_gates [4 * H]   gates in the order input, cell, forget, output, and
                                                                    one is added to the forget gate when it is used
    linear               w [H, 1]                 b [1]
    input_projection     w [2, I]                 b [I]             RNNprop's only; it reads [m~, g~], an ELU follows

Which preprocessing and which scale they were trained with was said in the code, and is not in the files.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import _checks, _pickles, optimizers

# What the code that wrote a file had, by the number of features that its network reads; None is RNNprop.
DEFAULTS = {
    1: {"preset": "quadratic"},
    2: {"preset": "mnist-code"},
    None: {"betas": (0.95, 0.95), "epsilon": 1e-8, "output_scale": 0.01},
}


def is_old(path):
    """Whether `path` is a file that starts as a pickle does, and not as a safetensors file."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as f:
        start = f.read(9)
    # A safetensors file has eight bytes with the length of a header, and the header is JSON.
    return start[8:] != b"{" and re.match(rb"\x80[\x02-\x05]|[(}]|c[a-z_]", start) is not None


def read(path, **settings):
    """Reads a network that the TensorFlow 1 code has written.

    A network with an `input_projection` is RNNprop's: betas 0.95, epsilon 1e-8 and output scale 0.01 as in the
    benchmarks' code, where the paper has 0.1. Others are LSTM optimizers: the preset is "mnist-code" (p = 5, output
    scale 0.01) for those that read two features of a gradient, and "quadratic" for those that read the gradient.

    The TensorFlow code adds 1.2e-7 to a gradient's absolute value before it takes the logarithm, and this library does
    not: with p = 5 the feature differs by less than 4e-6.

    Args:
      path: the file.
      **settings: arguments of `lstm` or `rnnprop`, for a network that was trained with others than these.

    Returns:
      `(opt, phi)`; the weights are float32.

    Raises:
      ValueError: if the file is truncated, or a pickle of anything but arrays; if the arrays are not those of a
        coordinatewise network whose state starts at zero; or if the settings do not fit them.
    """
    variables = _Variables(path)
    layers, num_inputs = _lstm_layers(variables)
    sizes = [layer["b"].size // 4 for layer in layers]
    output = {
        "w": variables.take("linear", "w", (sizes[-1], 1))[:, 0],
        "b": variables.take("linear", "b", (1,))[0],
    }
    phi = {"layers": layers, "output": output}
    if variables.has("input_projection"):
        phi["input"] = {
            "w": variables.take("input_projection", "w", (2, num_inputs)).T,
            "b": variables.take("input_projection", "b", (num_inputs,)),
        }
        spec = {"name": "rnnprop", "args": {"hidden_sizes": sizes, "input_size": num_inputs}}
    else:
        spec = {"name": "lstm", "args": {"hidden_sizes": sizes}}
    variables.check_all_taken()
    opt = _with_settings(path, spec, settings, None if "input" in phi else num_inputs)
    _checks.same_tree(
        f"the weights in {path}",
        phi,
        "an optimizer with these settings",
        jax.eval_shape(opt.init, jax.random.key(0)),
    )
    return opt, jax.tree.map(jnp.asarray, phi)


class _Variables:
    """The variables of a network, taken one after the other."""

    def __init__(self, path):
        self.path, self.arrays = path, {}
        for keys, array in _pickles.read_arrays(path).items():
            # Keys may be whole names of TensorFlow, vars_optimizer/cw_deep_lstm/linear/w:0.
            *_, module, variable = ("", *"/".join(keys).split(":")[0].split("/"))
            if (module, variable) in self.arrays:
                raise ValueError(
                    f"{path} has {module}/{variable} more than once: give each network a file of its own."
                )
            self.arrays[module, variable] = array

    def has(self, module):
        return any(module == other for other, _ in self.arrays)

    def take(self, module, variable, shape=None):
        array = self.arrays.pop((module, variable), None)
        if array is None:
            raise ValueError(
                f"{self.path} has no {module}/{variable}: it lacks weights of a coordinatewise network."
            )
        if shape is not None and array.shape != shape:
            raise ValueError(
                f"{self.path} has {module}/{variable} of shape {array.shape}, where a coordinatewise "
                f"network has {shape}."
            )
        if array.dtype.kind != "f" or not np.all(np.abs(array) <= np.finfo(np.float32).max):
            raise ValueError(
                f"{self.path} has {module}/{variable} with entries that are not finite, or no float32."
            )
        return array.astype(np.float32)

    def check_all_taken(self):
        if self.arrays:
            names = ", ".join(sorted("/".join(key)[:80] for key in self.arrays)[:4])
            raise ValueError(
                f"{self.path} has weights that no optimizer here takes ({names}): other layers, "
                "peepholes, batch normalization and trained initial states are not read."
            )


def _lstm_layers(variables):
    """The weights of all LSTM layers in this library's form, and the number of inputs of the first."""
    if not variables.has("lstm_1"):
        raise ValueError(
            f"{variables.path} has no lstm_1: it is no LSTM network of the TensorFlow code."
        )
    layers, inputs = [], []
    while variables.has(module := f"lstm_{len(layers) + 1}"):
        w, b = variables.take(module, "w_gates"), variables.take(module, "b_gates")
        num_units = b.size // 4
        if (
            w.ndim != 2
            or b.shape != (4 * num_units,)
            or w.shape[1] != b.size
            or not 0 < num_units < w.shape[0]
        ):
            raise ValueError(
                f"{variables.path} has {module} with w_gates {w.shape} and b_gates {b.shape}, where an "
                "LSTM has [inputs + units, 4 * units] and [4 * units]."
            )
        inputs.append(w.shape[0] - num_units)
        if layers and inputs[-1] != layers[-1]["b"].size // 4:
            raise ValueError(
                f"{variables.path} has {module} with {inputs[-1]} inputs, where the layer before has "
                f"{layers[-1]['b'].size // 4} units."
            )
        layers.append({"w": _reordered(w.T), "b": _reordered(b) + _forget_bias(num_units)})
    return layers, inputs[0]


def _reordered(gates):
    """Gates on the first axis from the order input, cell, forget, output to that of `cell.lstm_cell`."""
    i, g, f, o = np.split(gates, 4)
    return np.concatenate([i, f, g, o])


def _forget_bias(num_units):
    return np.repeat(np.float32([0, 1, 0, 0]), num_units)


def _with_settings(path, spec, settings, num_features):
    """The optimizer; `num_features` are read by an LSTM optimizer, None is RNNprop."""
    if num_features not in DEFAULTS:
        raise ValueError(
            f"{path} reads {num_features} features of a gradient, where the gradient itself is 1, and "
            "its logarithm and sign are 2."
        )
    if in_file := sorted(set(settings) & {"hidden_sizes", "input_size"}):
        raise ValueError(
            f"{path} says itself what {' and '.join(in_file)} must be: leave that out."
        )
    defaults = {} if "preset" in settings else DEFAULTS[num_features]
    opt = optimizers.from_spec({**spec, "args": {**spec["args"], **defaults, **settings}})
    p = opt.spec["args"].get("preprocess_p")
    if num_features is not None and (p is None) != (num_features == 1):
        raise ValueError(
            f"{path} reads {num_features} features of a gradient, which preprocess_p={p} does not make: "
            "None makes 1, a number 2."
        )
    return opt
