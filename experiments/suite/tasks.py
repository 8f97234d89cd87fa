"""The suite's tasks as data: a small edition for two cores, and a full one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from experiments.suite import families, networks
from experiments.suite.families import Built
from experiments.suite.sources import Sources
from learned_opt import _checks

EDITIONS = ("small", "full")
CORE, LONG, WIDTH = "core", "long", "width"
GROUPS = {
    CORE: "what means over all tasks are taken of",
    LONG: "five times as many steps",
    WIDTH: "one perceptron, from narrow to wide",
}
LONGER = 5
CONDITION = 1e4
WIDTHS = (16, 64, 256, 640)
# A loss below these is as good as zero: what lies below counts as so much in ratios.
FLOOR_OF_CROSS_ENTROPY = 1e-3
FLOOR_OF_SQUARES = 1e-6


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of the suite.

    Attributes:
      about: what it is, in words.
      build: `build(sources, **settings)` gives the family, and what is measured.
      settings: of each edition.
      group: one of `GROUPS`.
      factor: by which the parameters are multiplied. Rates of rivals are tuned around so many times
        those of other tasks.
      floor: below it a loss is as good as zero.
      milliseconds: of a step with Adam in the small edition, roughly: what the progress bar's
        estimate is made of.
    """

    about: str
    build: Callable[..., Built]
    settings: dict[str, dict[str, Any]]
    group: str = CORE
    factor: float = 1.0
    floor: float = FLOOR_OF_CROSS_ENTROPY
    milliseconds: float = 1.0

    def horizon(self, num_steps: int) -> int:
        """How many steps its runs have where those of most tasks have `num_steps`."""
        return LONGER * num_steps if self.group == LONG else num_steps

    def built(self, sources: Sources, edition: str) -> Built:
        """The family, and what is measured."""
        built = self.build(sources, **self.settings[edition])
        if self.factor != 1:
            built = families.rescaled(built, self.factor)
        return built


_PERCEPTRON = {
    "small": {"widths": (128, 128), "batch_size": 64},
    "full": {"widths": (256, 256), "batch_size": 128},
}
_AUTOENCODER = {
    "small": {"widths": (64, 32, 16), "batch_size": 64},
    "full": {"widths": (256, 128, 32), "batch_size": 128},
}
_CONVNET = {
    "small": {"channels": (8, 16), "batch_size": 32},
    "full": {"channels": (32, 64, 64), "batch_size": 128},
}
_RESNET = {
    "small": {"channels": (8, 16, 32), "blocks": 1, "batch_size": 32},
    "full": {"channels": (16, 32, 64), "blocks": 3, "batch_size": 128},
}
_GRU = {
    "small": {"units": 64, "context": 32, "batch_size": 16},
    "full": {"units": 256, "context": 64, "batch_size": 64},
}
_TRANSFORMER = {
    "small": {"layers": 2, "units": 64, "num_heads": 4, "context": 32, "batch_size": 16},
    "full": {"layers": 4, "units": 128, "num_heads": 4, "context": 64, "batch_size": 32},
}
_VISION_TRANSFORMER = {
    "small": {"squares": 4, "layers": 2, "units": 64, "num_heads": 4, "batch_size": 32},
    "full": {"squares": 8, "layers": 4, "units": 128, "num_heads": 4, "batch_size": 128},
}
_VECTOR = {edition: {"dim": 100, "condition": CONDITION} for edition in EDITIONS}
_MATRIX = {edition: {"dim": 64, "columns": 32, "condition": CONDITION} for edition in EDITIONS}


_IN_WORDS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def _perceptron(
    dataset: str,
    activation: str = "relu",
    normalisation: str = "none",
) -> Callable[..., Built]:
    network = functools.partial(
        networks.Perceptron, activation=activation, normalisation=normalisation
    )
    return functools.partial(families.classifier, dataset=dataset, network=network)


def _on_cifar10(network: Callable, **settings: Any) -> Callable[..., Built]:
    network = functools.partial(network, **settings)
    return functools.partial(families.classifier, dataset="cifar10", network=network)


def _language_model(network: Callable) -> Callable[..., Built]:
    return functools.partial(families.language_model, network=network)


def _of_width(width: int) -> dict[str, dict[str, Any]]:
    return {
        "small": {"widths": (width, width), "batch_size": 64},
        "full": {"widths": (width, width), "batch_size": 128},
    }


def _tasks() -> dict[str, Task]:
    tasks = {}
    for dataset, milliseconds in (("mnist", 0.3), ("cifar10", 0.7)):
        for name, words, settings in (
            ("relu", "ReLU units", {}),
            ("tanh", "tanh units", {"activation": "tanh"}),
            ("layer", "layer normalisation", {"normalisation": "layer"}),
        ):
            tasks[f"perceptron-{dataset}-{name}"] = Task(
                f"a perceptron with {words} on {_IN_WORDS[dataset]}",
                _perceptron(dataset, **settings),
                _PERCEPTRON,
                milliseconds=milliseconds,
            )
    tasks["autoencoder"] = Task(
        "an autoencoder on MNIST",
        functools.partial(families.autoencoder, dataset="mnist"),
        _AUTOENCODER,
        floor=FLOOR_OF_SQUARES,
        milliseconds=0.25,
    )
    for name, network, settings, milliseconds in (
        ("conv", networks.ConvNet, _CONVNET, 2.0),
        ("resnet", networks.ResNet, _RESNET, 9.5),
    ):
        for normalisation in networks.NORMALISATIONS:
            has = f"with {normalisation}" if normalisation != "none" else "without"
            tasks[f"{name}-{normalisation}"] = Task(
                f"a {network.__name__} {has} normalisation on CIFAR-10",
                _on_cifar10(network, normalisation=normalisation),
                settings,
                milliseconds=milliseconds,
            )
    tasks["gru"] = Task("a character GRU", _language_model(networks.GRU), _GRU, milliseconds=3.0)
    tasks["transformer"] = Task(
        "a character Transformer",
        _language_model(networks.Transformer),
        _TRANSFORMER,
        milliseconds=9.0,
    )
    tasks["vit"] = Task(
        "a vision Transformer on CIFAR-10",
        _on_cifar10(networks.VisionTransformer),
        _VISION_TRANSFORMER,
        milliseconds=9.5,
    )
    tasks["quadratic-vector"] = Task(
        "rotated quadratics of a vector, condition 10^4",
        families.vector_quadratic,
        _VECTOR,
        floor=FLOOR_OF_SQUARES,
        milliseconds=0.07,
    )
    tasks["quadratic-matrix"] = Task(
        "rotated quadratics of a matrix, condition 10^4",
        families.matrix_quadratic,
        _MATRIX,
        floor=FLOOR_OF_SQUARES,
        milliseconds=0.06,
    )
    relu = tasks["perceptron-cifar10-relu"]
    for factor in (100.0, 0.01):
        tasks[f"rescaled-{factor:g}"] = dataclasses.replace(
            relu, about=f"{relu.about}, its parameters times {factor:g}", factor=factor
        )
    for name in ("perceptron-mnist-relu", "conv-batch", "transformer"):
        tasks[f"long-{name}"] = dataclasses.replace(
            tasks[name], about=f"{tasks[name].about}, {LONGER} times the steps", group=LONG
        )
    for width in WIDTHS:
        tasks[f"width-{width}"] = Task(
            f"a perceptron with two layers of {width} on MNIST",
            _perceptron("mnist"),
            _of_width(width),
            WIDTH,
            milliseconds=max(0.1, (width / 300) ** 2),
        )
    return tasks


TASKS: dict[str, Task] = _tasks()


def chosen(names: list[str]) -> dict[str, Task]:
    """Some tasks in the suite's order.

    Args:
      names: of tasks, of groups, or "all".

    Raises:
      ValueError: for an unknown name, or none.
    """
    known = [*TASKS, *GROUPS, "all"]
    if not names:
        raise ValueError(f"--tasks must name at least one, got none: one of {', '.join(known)}.")
    wanted = {_checks.choice("task", name, known) for name in names}
    return {name: task for name, task in TASKS.items() if wanted & {name, task.group, "all"}}
