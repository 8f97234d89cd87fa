"""The papers' figures and tables as data: which problems, for how many steps, and what the paper prints.

A figure more is an entry of `FIGURES`. The papers are Andrychowicz et al. 2016 ("l2l", Learning to learn by gradient
descent by gradient descent) and Lv, Jiang, Li 2017 ("rnnprop", Learning gradient descent: better generalization and
longer horizons).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import data, optimizees
from learned_opt.evaluation import baselines
from learned_opt.optimizees.classifier import as_float

ALL_DATA = "loss on all data"
# f(theta_T) over the minibatches that the run itself has seen: what Lv, Jiang, Li 2017 print as final loss (figure 3).
# It is below the loss at step T, that of a fresh minibatch: for Adam on the base MLP 0.30 (printed: 0.31), and 0.34.
SEEN = "loss on what it saw"
NO_DATA = "none"
EXAMPLES_AT_ONCE = 1_000  # of a whole data set


class Subject(NamedTuple):
    """What a case's optimizers are measured on.

    Attributes:
      problem: the `Optimizee`.
      measures: dict from name to a function of theta_T.
    """

    problem: Any
    measures: dict


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One problem for one number of steps.

    Attributes:
      name: of its folder; two cases of one name, horizon and `final` are the same wherever they stand.
      title: of its picture and table.
      build: from `data.Splits` to a `Subject`.
      num_steps: the horizon.
      first_step: where the picture begins.
      final: what is tuned for and compared at the end: "loss" of the last minibatch, SEEN, or one of the measures.
      paper: the final losses that the paper prints, under an optimizer's name or its architecture's.
      panel: of the picture over all cases.
      position: on the axis of that picture; None for the title.
      dataset: the data set that the case needs, NO_DATA for none, or None for the one that is asked for.
    """

    name: str
    title: str
    build: Callable
    num_steps: int = 100
    first_step: int = 0
    final: str = "loss"
    paper: Mapping = dataclasses.field(default_factory=dict)
    panel: str = ""
    position: Any = None
    dataset: str | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or a table of a paper.

    Attributes:
      title: of the picture over all cases.
      source: paper and figure.
      cases: the `Case`s.
      axis: what the cases differ in.
      optimizers: the learned ones, as `learned.find` takes them.
      num_runs: fresh problems on which everything is compared.
      tune_runs: problems on which each baseline's learning rate is tuned.
      within: the figure that has all of this one in it, or None.
      references: of `baselines.REFERENCES`, methods with nothing to tune that are shown beside the others.
    """

    title: str
    source: str
    cases: tuple
    axis: str
    optimizers: str = "lstm-mnist,rnnprop-mnist"
    num_runs: int = 100
    tune_runs: int = 20
    within: str | None = None
    references: tuple = ()


def mlp(splits, all_data=False, shrink=1, **shape):
    """The base MLP, or one of another shape.

    `all_data` also measures the loss on the whole training split; `shrink` divides the sides of the images.
    """
    if shrink > 1:
        splits = splits._replace(
            train=data.shrink(splits.train, shrink), test=data.shrink(splits.test, shrink)
        )
    network = optimizees.mlp_network(splits.train.num_classes, **shape)
    measures = {"test accuracy": optimizees.accuracy(network, splits.test)}
    if all_data:
        measures[ALL_DATA] = mean_loss(network, splits.train)
    return Subject(optimizees.mlp(splits.train, **shape), measures)


def cnn(splits, **settings):
    """A convolutional network: c a convolution, p a max-pooling, f a fully connected layer."""
    network = optimizees.cnn_network(splits.train.num_classes, **settings)
    return Subject(
        optimizees.cnn(splits.train, **settings), {"test accuracy": accuracy(network, splits.test)}
    )


def function(splits, family, **settings):
    """A family of functions without data, of `optimizees`."""
    del splits
    return Subject(getattr(optimizees, family)(**settings), {})


def sine_lstm(splits, **settings):
    """An LSTM that predicts the next value of a noisy sine; it needs no data, and has no accuracy."""
    del splits
    return Subject(optimizees.sine_lstm(**settings), {})


def mean_loss(network, dataset):
    """A measure of theta: the mean cross-entropy over a whole data set."""
    return _over(network, optax.softmax_cross_entropy_with_integer_labels, dataset)


def accuracy(network, dataset):
    """`optimizees.accuracy`, on so few examples at once that a convolutional network's activations find room."""
    return _over(network, _is_right, dataset)


def _is_right(logits, label):
    return (jnp.argmax(logits) == label).astype(jnp.float32)


def _over(network, function, dataset):
    return jax.tree_util.Partial(
        _Mean(network, function), jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    )


@dataclasses.dataclass(frozen=True)
class _Mean:
    """The mean of `function(logits, label)` over examples."""

    network: Any
    function: Callable

    def __call__(self, images, labels, theta):
        def one(example):
            image, label = example
            return self.function(
                self.network.apply({"params": theta}, as_float(image)[None])[0], label
            )

        return jnp.mean(jax.lax.map(one, (images, labels), batch_size=EXAMPLES_AT_ONCE))


def _mlp_case(name, title, num_steps=100, all_data=False, **options):
    shape = {k: options.pop(k) for k in ("width", "depth", "activation", "shrink") if k in options}
    options = {"final": ALL_DATA if all_data else "loss", **options}
    return Case(
        name, title, functools.partial(mlp, all_data=all_data, **shape), num_steps, **options
    )


def _sine_case(name, setting, settings, paper):
    return Case(
        name,
        f"sine LSTM, {setting}",
        functools.partial(sine_lstm, **settings),
        paper=paper,
        position=setting,
        final=SEEN,
        dataset=NO_DATA,
    )


def _cnn_case(structure, dataset=None, **settings):
    where = f", {dataset}" if dataset else ""
    return Case(
        f"cnn-{structure}" + (f"-{dataset}" if dataset else ""),
        f"CNN {structure}{where}",
        functools.partial(cnn, structure=structure, **settings),
        position=f"{structure}{where}",
        dataset=dataset,
    )


_ACTIVATIONS = {  # Lv, Jiang, Li 2017, table 2; "lstm" is their DMoptimizer
    "sigmoid": {"Adam": 0.31, "lstm": 0.24, "rnnprop": 0.29},
    "relu": {"Adam": 0.28, "lstm": 1.05, "rnnprop": 0.27},
    "elu": {"Adam": 0.26, "lstm": 13.51, "rnnprop": 0.24},
    "tanh": {"Adam": 0.31, "lstm": 0.50, "rnnprop": 0.28},
}
_NAMES = {"sigmoid": "sigmoid", "relu": "ReLU", "elu": "ELU", "tanh": "tanh"}

_TABLE_3 = (
    ("sine", "default", {}, {"Adam": 0.62, "Adagrad": 0.54, "lstm": 26.43, "rnnprop": 0.55}),
    (
        "sine-2",
        "two layers",
        {"num_layers": 2},
        {"Adam": 0.44, "Adagrad": 0.65, "lstm": 5.06, "rnnprop": 0.28},
    ),
    (
        "sine-0.01",
        "noise 0.01",
        {"noise": 0.01},
        {"Adam": 0.39, "Adagrad": 0.50, "lstm": 22.04, "rnnprop": 0.36},
    ),
)

# The learned optimizers of Lv, Jiang, Li 2017, table 4, after 5k, 10k and 15k iterations of meta-training.
_SHARES = ("1/3", "2/3", "1")
_TABLE_4 = {
    "sigmoid": {
        "Adam": 0.31,
        "ablation-rnnprop": (0.33, 0.31, 0.30),
        "ablation-no-convex": (0.33, 0.32, 0.33),
    },
    "relu": {
        "Adam": 0.28,
        "ablation-rnnprop": (0.30, 0.29, 0.27),
        "ablation-no-convex": (0.31, 0.31, 0.32),
    },
}


def _table_4(activation):
    printed = dict(_TABLE_4[activation])
    paper = {"Adam": printed.pop("Adam")}
    return paper | {
        f"{name}@{share}": value
        for name, values in printed.items()
        for share, value in zip(_SHARES, values, strict=True)
    }


def _activation_case(activation, paper, **options):
    name = "mlp" if activation == "sigmoid" else f"mlp-{activation}"
    return _mlp_case(
        name,
        f"base MLP, {_NAMES[activation]}",
        activation=activation,
        paper=paper,
        position=_NAMES[activation],
        **options,
    )


def _long_case(steps):
    return _mlp_case("mlp-all-data", "base MLP", steps, all_data=True, position=steps)


def _shape_case(width, depth, **options):
    name = "mlp" if (width, depth) == (20, 1) else f"mlp-{depth}x{width}"
    return _mlp_case(
        name, f"MLP, {depth} x {width} hidden units", width=width, depth=depth, **options
    )


_SEEDS = (":0", ":1", ":2")


def _coupled(title, family, recipe):
    """A problem of ten coordinates, on which optimizers meet whose coordinates talk to each other or do not."""
    case = Case(
        recipe, title, functools.partial(function, family=family), dataset=NO_DATA, position=100
    )
    names = [f"{kind}-{recipe}{seed}" for kind in ("lstm", "gac", "ntm-bfgs") for seed in _SEEDS]
    return Figure(
        title,
        "not in the papers",
        (case,),
        axis="steps",
        num_runs=512,
        tune_runs=128,
        optimizers=",".join(names),
        references=tuple(baselines.REFERENCES),
    )


FIGURES = {
    "l2l-v1-fig4": dataclasses.replace(
        _coupled("Random quadratics", "quadratic", "quadratic"),
        source="Andrychowicz et al. 2016, first version, figure 4, left",
    ),
    "rotated": _coupled(
        "Rotated quadratics, condition number 1,000", "rotated_quadratic", "rotated"
    ),
    "rosenbrock": _coupled("Rosenbrock's function, 10 dimensions", "rosenbrock", "rosenbrock"),
    "l2l-v1-mnist": Figure(
        "Coordinates that talk, on the base MLP",
        "Andrychowicz et al. 2016, first version, section 3.2",
        (
            _mlp_case(
                "mlp-half",
                "base MLP on images of half the sides",
                shrink=2,
                position="half (as trained)",
            ),
            _mlp_case("mlp", "base MLP", position="whole"),
        ),
        axis="sides of the images",
        optimizers="lstm-small,gac-small,ntm-lbfgs-small",
    ),
    "l2l-fig4": Figure(
        "The base MLP",
        "Andrychowicz et al. 2016, figure 4, centre and right",
        (
            _mlp_case("mlp", "base MLP", position=100),
            _mlp_case("mlp", "base MLP", 200, first_step=100, position=200),
        ),
        axis="steps",
    ),
    "l2l-fig5": Figure(
        "Other architectures",
        "Andrychowicz et al. 2016, figure 5",
        (
            _shape_case(40, 1, position="40 hidden units"),
            _shape_case(20, 2, position="2 hidden layers"),
            _activation_case("relu", {}),
        ),
        axis="architecture",
    ),
    # The paper shows the grid in its picture alone; depth by depth, as there.
    "l2l-fig6": Figure(
        "Width and depth",
        "Andrychowicz et al. 2016, figure 6",
        tuple(
            _shape_case(width, depth, panel=f"hidden layers: {depth}", position=width)
            for depth in (1, 2, 5)
            for width in (5, 10, 20, 35, 50)
        ),
        axis="hidden units of a layer",
        num_runs=50,
    ),
    "rnnprop-fig2": Figure(
        "More steps",
        "Lv, Jiang, Li 2017, figure 2; in its 10,000 steps figure 3 as well",
        tuple(map(_long_case, (2_000, 10_000))),
        axis="steps",
        num_runs=20,
        tune_runs=2,
    ),
    "rnnprop-fig3": Figure(
        "10,000 steps",
        "Lv, Jiang, Li 2017, figure 3",
        (_long_case(10_000),),
        axis="steps",
        num_runs=20,
        tune_runs=2,
        within="rnnprop-fig2",
    ),
    "long": Figure(
        "Thousands of steps",
        "not in the papers",
        tuple(map(_long_case, (1_000, 2_000, 10_000))),
        axis="steps",
        num_runs=20,
        tune_runs=2,
        optimizers="rnnprop-mnist,rnnprop-long",
    ),
    "rnnprop-table2": Figure(
        "Activation functions",
        "Lv, Jiang, Li 2017, table 2 and figure 4",
        tuple(
            _activation_case(activation, paper, final=SEEN)
            for activation, paper in _ACTIVATIONS.items()
        ),
        axis="activation",
    ),
    "rnnprop-fig6": Figure(
        "Deeper networks",
        "Lv, Jiang, Li 2017, figure 6; at five layers figure 5",
        tuple(_shape_case(20, depth, position=depth) for depth in range(1, 11)),
        axis="hidden layers",
    ),
    "rnnprop-table3": Figure(
        "An LSTM that predicts a sine",
        "Lv, Jiang, Li 2017, table 3 and figure 8",
        tuple(_sine_case(*case) for case in _TABLE_3),
        axis="task",
    ),
    # How many steps the paper takes is in its picture alone.
    "rnnprop-fig7": Figure(
        "Convolutional networks",
        "Lv, Jiang, Li 2017, figure 7",
        (
            _cnn_case("c-c-p-f"),
            _cnn_case("c-c-p-c-c-p-f-f"),
            _cnn_case("c-c-p-f", "cifar10", pixel_offset=0.5),
        ),
        axis="network",
        num_runs=20,
        tune_runs=2,
    ),
    "rnnprop-table4": Figure(
        "Training with and without convex functions",
        "Lv, Jiang, Li 2017, table 4",
        tuple(
            _activation_case(activation, _table_4(activation), final=SEEN)
            for activation in _TABLE_4
        ),
        axis="activation",
        optimizers=",".join(name for name in _table_4("relu") if "@" in name),
    ),
    "rnnprop-fig9": Figure(
        "What the tricks of training do",
        "Lv, Jiang, Li 2017, figure 9",
        (_activation_case("relu", {}, num_steps=1_000),),
        axis="activation",
        optimizers="ablation-rnnprop,ablation-no-scaling,ablation-lstm,ablation-lstm-tricks",
        num_runs=50,
        tune_runs=10,
    ),
}
