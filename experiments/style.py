"""Paints one picture in the style of another with a learned optimizer (Gatys et al. 2015).

The picture itself is what is optimized: its features are to be those of the content, and the Gram
matrices of its features those of the style. The weights `neural-art` come with the package. Without
--features a convolutional network of random filters tells content and style: it needs no file, and
gives the colours and the fine texture of a style. A network that was trained on photographs gives
more; nothing is downloaded here.

What was stopped goes on with the same command: a course that takes long is kept once a minute, in
OUT.unfinished.npz, until the result is there.

%s

Examples:

    python -m experiments.style --content=me.jpg --style=painting.jpg --out=painted.png
    python -m experiments.style --content=me.jpg --style=painting.jpg --out=painted.png --size=256
        --features=vgg19.safetensors --style_layers=conv1_1=1,conv2_1=1
        --content_layers=conv2_2=1
"""

import os

import jax
from absl import flags

from experiments import config_flags, learned, main, painting
from learned_opt import _checks, _files
from learned_opt.data import pictures
from learned_opt.optimizees import feature_files, feature_networks, style_transfer
from learned_opt.optimizees.feature_networks import Features
from learned_opt.optimizees.style_transfer import Terms

__doc__ %= feature_files.LAYOUTS
OPTIMIZER = "neural-art"
SUFFIX = ".png"
UNFINISHED = ".unfinished.npz"  # beside the result while there is none


def layers(flag: str, text: str) -> dict[str, float] | None:
    """Layers with their weights from NAME=WEIGHT,NAME=WEIGHT; None where there is no text.

    Raises:
      ValueError: for a text of another kind.
    """
    if not text:
        return None
    found = config_flags.settings(flag, config_flags.split(text))
    for name, weight in found.items():
        _checks.positive_float(f"--{flag}: the weight of {name}", weight)
    return found


def features_of(
    path: str | None,
    style: dict[str, float] | None,
    content: dict[str, float] | None,
) -> Features:
    """The features of a file, or random filters where there is none."""
    if path:
        return feature_files.read_features(os.path.expanduser(path), style, content)
    net = feature_networks.random_features()
    net = net._replace(style=style or net.style, content=content or net.content)
    net.network.up_to([*net.style, *net.content])  # checks their names
    return net


def define_flags() -> None:
    """Defines the flags of this program."""
    config_flags.define_required("content", "The picture that is painted.")
    config_flags.define_required("style", "The picture whose style it gets.")
    config_flags.define_required("out", "Where the result goes, a .png.")
    flags.DEFINE_string(
        "features", None, "A file of a feature network, see above; random filters without one."
    )
    flags.DEFINE_string(
        "style_layers",
        "",
        "LAYER=WEIGHT,..: which features are style; empty for the network's own.",
    )
    flags.DEFINE_string(
        "content_layers",
        "",
        "LAYER=WEIGHT,..: which features are content; empty for the network's own.",
    )
    flags.DEFINE_integer(
        "size", 128, "The smaller side of the result in pixels; both pictures must be as large."
    )
    flags.DEFINE_integer(
        "steps", 128, "How many steps are taken; the optimizer that ships was trained for 128."
    )
    flags.DEFINE_string("start", "noise", "What the optimizer starts from: noise, or content.")
    flags.DEFINE_string(
        "optimizer", OPTIMIZER, "A learned optimizer: one that ships, or the path of a file."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the noise.")
    for name, value in style_transfer.WEIGHTS._asdict().items():
        flags.DEFINE_float(f"{name}_weight", value, f"The weight of the {name} term.")


def run() -> None:
    """Paints what the command line asks for."""
    given = flags.FLAGS
    out = _checked_out(given.out)
    size = _checks.positive_int("--size", given.size, style_transfer.LEAST_SIZE)
    num_steps = _checks.positive_int("--steps", given.steps)
    _checks.choice("--start", given.start, style_transfer.STARTS)
    # A file that is no picture, or no network, is told before anything is compiled.
    content = pictures.read_picture(os.path.expanduser(given.content), size)
    style = pictures.read_picture(os.path.expanduser(given.style), size)
    net = features_of(
        given.features,
        layers("style_layers", given.style_layers),
        layers("content_layers", given.content_layers),
    )
    found = learned.find(given.optimizer, learned.Places("results/train", None, train=False))
    weights = Terms(*(getattr(given, f"{name}_weight") for name in Terms._fields))
    art = style_transfer.neural_art(
        pictures.resized(content, size)[None],
        pictures.resized(style, size),
        net,
        weights,
        given.start,
    )
    key = jax.random.key(given.seed)
    unfinished = f"{out}{UNFINISHED}"
    theta = painting.paint(
        art,
        (found.opt, found.phi),
        key,
        num_steps,
        net.network.about,
        unfinished,
        found.digest,
    )
    pictures.write_picture(out, style_transfer.to_pixels(theta))
    _files.remove(unfinished)
    print(f"{out}: {num_steps} steps of {found.name}, features of {net.network.about}.")


def _checked_out(path: str) -> str:
    """Where the result goes, if it can go there."""
    path = os.path.expanduser(path)
    if not path.lower().endswith(SUFFIX):
        raise ValueError(f"--out must end in {SUFFIX}, got {path!r}.")
    if os.path.isdir(path):
        raise ValueError(f"--out must be a file, got the folder {path!r}.")
    _files.make_folder(os.path.dirname(os.path.abspath(path)))  # better now than after all steps
    return path


if __name__ == "__main__":
    define_flags()
    main.run(run)
