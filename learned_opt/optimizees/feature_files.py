"""Feature networks read from files: VGG and SqueezeNet, with whatever weights a user has."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from learned_opt.optimizees.feature_networks import (
    Conv,
    FeatureNetwork,
    Features,
    Fire,
    Pool,
    Weights,
)

LAYOUTS = """\
A file of features is .safetensors or .npz. Its names tell the network:

    features.0.weight, features.0.bias, ..   VGG-16 or VGG-19 of torchvision or timm (without batch
                                             normalization); kernels [outputs, inputs, 3, 3]
    block1_conv1/kernel, block1_conv1/bias, ..   VGG-19 of Keras; kernels [3, 3, inputs, outputs]
    conv1/kernel, fire2/squeeze1x1/kernel, ..    SqueezeNet 1.1; kernels [.., inputs, outputs]

Only layers up to the last one that is named as content or style need be there. Layers are called
conv1_1, conv1_2, conv2_1, .. of VGG, and conv1, fire2, fire3, .. of SqueezeNet."""

_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # of VGG-19: convolutions, channels
_BGR_MEAN = (123.68, 116.779, 103.939)
# Of torchvision and timm, for pixels from 0 to 255.
_MEAN = (123.675, 116.28, 103.53)
_SCALE = (58.395, 57.12, 57.375)


class Layout(NamedTuple):
    """How a file names the arrays of a network.

    Attributes:
      network: the whole network.
      key: `key(convolution, "kernel" or "bias")`, the name of an array.
      outputs_first: whether kernels are `[outputs, inputs, height, width]`.
      style: the layers that are style by default, with their weights.
      content: the same for content.
    """

    network: FeatureNetwork
    key: Callable[[Conv, str], str]
    outputs_first: bool
    style: Mapping[str, float]
    content: Mapping[str, float]


_VGG_STYLE = {"conv1_1": 1.0, "conv2_1": 1.0, "conv3_1": 1.0}
_VGG_CONTENT = {"conv2_2": 1.0}


def read_features(
    path: str | os.PathLike,
    style: Mapping[str, float] | None = None,
    content: Mapping[str, float] | None = None,
) -> Features:
    """Reads a feature network from a file; `LAYOUTS` says what may be in it.

    Args:
      path: a .safetensors or .npz file.
      style: dict from a layer to its weight in the style term; None for conv1_1, conv2_1 and
        conv3_1 of VGG, or conv1, fire2 and fire3 of SqueezeNet.
      content: the same for the content term; None for conv2_2, or fire3.

    Returns:
      `Features`, without the layers behind the last one that is named.

    Raises:
      FileNotFoundError: where there is no file.
      ValueError: for a file that is none of these, that lacks a layer, or has one of another shape;
        and for layers that the network does not have.
    """
    path = os.fspath(path)
    arrays = _arrays(path)
    layout = _layout(path, arrays)
    style = dict(layout.style if style is None else style)
    content = dict(layout.content if content is None else content)
    network = layout.network.up_to([*style, *content])
    weights: Weights = {}
    for conv in network.convolutions():
        weights[f"{conv.name}/kernel"] = _kernel(path, arrays, layout, conv)
        weights[f"{conv.name}/bias"] = _array(
            path, arrays, layout.key(conv, "bias"), (conv.outputs,), conv
        )
    return Features(network, weights, style, content)


def _arrays(path: str) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file of features at {path}: check the path.")
    try:
        if path.endswith(".safetensors"):
            return safetensors.numpy.load_file(path)
        with np.load(path, allow_pickle=False) as there:
            return {name: there[name] for name in there.files}
    except (safetensors.SafetensorError, zipfile.BadZipFile, ValueError, EOFError) as error:
        # NumPy's own words tell how to unpickle, which nobody should do with a stranger's file.
        raise ValueError(
            f"{path} is damaged, or no .safetensors or .npz file: take a whole copy, or convert it."
        ) from error
    except AttributeError:  # np.load of a single array
        raise ValueError(f"{path} holds one array without a name: write an .npz file.") from None


def _layout(path: str, arrays: Collection[str]) -> Layout:
    if "features.0.weight" in arrays:
        # At 16 VGG-19 has a convolution, where VGG-16 pools.
        thirds = 4 if "features.16.weight" in arrays else 3
        blocks = tuple(
            (min(num, thirds) if i > 1 else num, c) for i, (num, c) in enumerate(_BLOCKS)
        )
        network = _vgg(f"VGG-{16 if thirds == 3 else 19}", blocks, _MEAN, _SCALE, is_bgr=False)
        return Layout(network, _TorchKey(_indices(blocks)), True, _VGG_STYLE, _VGG_CONTENT)
    if "block1_conv1/kernel" in arrays:
        network = _vgg("VGG-19", _BLOCKS, _BGR_MEAN, (1.0, 1.0, 1.0), is_bgr=True)
        return Layout(network, _keras_key, False, _VGG_STYLE, _VGG_CONTENT)
    if "fire2/squeeze1x1/kernel" in arrays:
        style = {"conv1": 1.0, "fire2": 1.0, "fire3": 1.0}
        return Layout(_squeezenet(), _plain_key, False, style, {"fire3": 1.0})
    known = "features.0.weight, block1_conv1/kernel, or fire2/squeeze1x1/kernel"
    names = ", ".join(sorted(arrays)[:3]) or "nothing"
    raise ValueError(
        f"{path} has no layout that is known here: it must have {known}; it has {names}."
    )


def _vgg(
    about: str,
    blocks: tuple[tuple[int, int], ...],
    mean: tuple[float, float, float],
    scale: tuple[float, float, float],
    is_bgr: bool,
) -> FeatureNetwork:
    layers: list[Conv | Fire | Pool] = []
    inputs = 3
    for block, (num, channels) in enumerate(blocks, start=1):
        if block > 1:
            layers.append(Pool(2, 2))
        for i in range(1, num + 1):
            layers.append(Conv(f"conv{block}_{i}", 3, inputs, channels))
            inputs = channels
    return FeatureNetwork(about, tuple(layers), mean, scale, is_bgr)


def _squeezenet() -> FeatureNetwork:
    layers = (
        Conv("conv1", 3, 3, 64, stride=2, padded=False),
        Pool(3, 2),
        Fire("fire2", 64, 16, 128),
        Fire("fire3", 128, 16, 128),
        Pool(3, 2),
        Fire("fire4", 128, 32, 256),
        Fire("fire5", 256, 32, 256),
        Pool(3, 2),
        Fire("fire6", 256, 48, 384),
        Fire("fire7", 384, 48, 384),
        Fire("fire8", 384, 64, 512),
        Fire("fire9", 512, 64, 512),
    )
    return FeatureNetwork("SqueezeNet 1.1", layers, (123.0, 117.0, 104.0), is_bgr=True)


def _indices(blocks: tuple[tuple[int, int], ...]) -> dict[str, int]:
    """Where torchvision's sequence of layers has each convolution: ReLUs and pools count too."""
    found = {}
    index = 0
    for block, (num, _) in enumerate(blocks, start=1):
        for i in range(1, num + 1):
            found[f"conv{block}_{i}"] = index
            index += 2
        index += 1
    return found


@dataclasses.dataclass(frozen=True)
class _TorchKey:
    indices: dict[str, int]

    def __call__(self, conv: Conv, kind: str) -> str:
        return f"features.{self.indices[conv.name]}.{'weight' if kind == 'kernel' else 'bias'}"


def _keras_key(conv: Conv, kind: str) -> str:
    block, number = conv.name.removeprefix("conv").split("_")
    return f"block{block}_conv{number}/{kind}"


def _plain_key(conv: Conv, kind: str) -> str:
    return f"{conv.name}/{kind}"


def _kernel(
    path: str,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    conv: Conv,
) -> Any:
    name = layout.key(conv, "kernel")
    if layout.outputs_first:
        shape = (conv.outputs, conv.inputs, conv.size, conv.size)
        return _array(path, arrays, name, shape, conv).transpose(2, 3, 1, 0)
    return _array(path, arrays, name, (conv.size, conv.size, conv.inputs, conv.outputs), conv)


def _array(
    path: str,
    arrays: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    conv: Conv,
) -> Any:
    """One array of the file, if it is what it should be."""
    if name not in arrays:
        raise ValueError(
            f"{path} lacks {name}, which the layer {conv.name} needs: name other layers as content "
            "and style, or take another file."
        )
    array = arrays[name]
    if array.shape != shape:
        raise ValueError(f"{name} in {path} must have shape {shape}, got {array.shape}.")
    is_number = np.issubdtype(array.dtype, np.floating)
    if not is_number or not np.isfinite(array).all():
        raise ValueError(f"{name} in {path} must be finite floating-point numbers.")
    return jnp.asarray(array, jnp.float32)
