"""The papers' figures and tables as data: which problems, how many steps, what the paper prints.

The next figure is an entry of `FIGURES`. The papers are Andrychowicz et al. 2016 ("l2l", Learning
to learn by gradient descent by gradient descent) and Lv, Jiang, Li 2017 ("rnnprop", Learning
gradient descent: better generalization and longer horizons).
"""

from collections.abc import Mapping
from typing import Any

from experiments import art
from experiments.cases import SEEN, Case, Figure
from experiments.families import ALL_DATA, TEST_COURSE, TEST_LOSS, FamilySpec
from learned_opt.evaluation import baselines

_ACTIVATIONS = {  # Lv, Jiang, Li 2017, table 2; "lstm" is their DMoptimizer
    "sigmoid": {"Adam": 0.31, "lstm": 0.24, "rnnprop": 0.29},
    "relu": {"Adam": 0.28, "lstm": 1.05, "rnnprop": 0.27},
    "elu": {"Adam": 0.26, "lstm": 13.51, "rnnprop": 0.24},
    "tanh": {"Adam": 0.31, "lstm": 0.50, "rnnprop": 0.28},
}
_NAMES = {"sigmoid": "sigmoid", "relu": "ReLU", "elu": "ELU", "tanh": "tanh"}

# The learned optimizers of Lv, Jiang, Li 2017, table 4, after 5k, 10k and 15k iterations of
# meta-training.
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
_TABLE_4_OPTIMIZERS = ("ablation-rnnprop", "ablation-no-convex")

# Of these one is the best baseline, or none can be told from it, on every perceptron of table 2 and
# figures 4 and 5, where all baselines are measured. Where there are many cases the others are left
# out, and where there are 10,000 steps RMSprop and Muon as well, for time.
NEAR = ("Adam", "NAG", "RMSprop", "AdamW-cosine", "Muon")
LONG = ("Adam", "NAG", "AdamW-cosine")
# Those of the 2016 paper: a life of the network on CIFAR-10 takes a second or two.
CIFAR = ("SGD", "NAG", "RMSprop", "Adam")

# The embedded editions. Most of a figure's time on small data goes into compiling: two programs for
# each baseline of each case. So these have the baselines that came near, and no frozen ones.
EMBEDDED_ART = {
    "baselines": ("NAG", "Adam", "AdamW-cosine"),
    "frozen": (),
    "num_runs": 20,
    "tune_runs": 10,
}
# Of the LSTMs the one that ships: the others have to be trained first.
EMBEDDED_CIFAR = {"baselines": ("NAG", "Adam"), "optimizers": "lstm-cifar10"}


def _table_4(activation: str) -> dict[str, float]:
    printed = _TABLE_4[activation]
    paper = {"Adam": printed["Adam"]}
    for name in _TABLE_4_OPTIMIZERS:
        for share, value in zip(_SHARES, printed[name], strict=True):
            paper[f"{name}@{share}"] = value
    return paper


def _mlp_case(
    name: str,
    title: str,
    num_steps: int = 100,
    shrink: int = 1,
    **options: Any,
) -> Case:
    """A perceptron of any shape; the base MLP where no shape is given."""
    shape = {}
    for setting in ("width", "depth", "activation"):
        if setting in options:
            shape[setting] = options.pop(setting)
    return Case(name, title, FamilySpec("mlp", shape, shrink), num_steps, **options)


def _activation_case(
    activation: str,
    paper: dict[str, float],
    **options: Any,
) -> Case:
    title = f"base MLP, {_NAMES[activation]}"
    options = {"paper": paper, "position": _NAMES[activation], **options}
    if activation == "sigmoid":
        return _mlp_case("mlp", title, **options)
    return _mlp_case(f"mlp-{activation}", title, activation=activation, **options)


def _long_case(
    steps: int,
    name: str = "mlp",
    title: str = "base MLP",
    **shape: Any,
) -> Case:
    return _mlp_case(
        f"{name}-all-data",
        title,
        steps,
        final=ALL_DATA,
        position=steps,
        panel="" if name == "mlp" else title,
        **shape,
    )


def _seeds(*names: str) -> str:
    """Three seeds of each training."""
    every = []
    for name in names:
        recipe, at, share = name.partition("@")
        every += [f"{recipe}:{seed}{at}{share}" for seed in range(3)]
    return ",".join(every)


def _shape_case(
    width: int,
    depth: int,
    **options: Any,
) -> Case:
    title = f"MLP, {depth} x {width} hidden units"
    if (width, depth) == (20, 1):
        return _mlp_case("mlp", title, **options)
    return _mlp_case(f"mlp-{depth}x{width}", title, width=width, depth=depth, **options)


def _grid() -> tuple[Case, ...]:
    """Figure 6 of 2016: five widths at each of three depths."""
    cases = []
    for depth in (1, 2, 5):
        for width in (5, 10, 20, 35, 50):
            panel = f"hidden layers: {depth}"
            cases.append(_shape_case(width, depth, panel=panel, position=width))
    return tuple(cases)


def _sine_case(
    name: str,
    setting: str,
    settings: dict[str, Any],
    paper: dict[str, float],
) -> Case:
    family = FamilySpec("sine_lstm", settings)
    return Case(name, f"sine LSTM, {setting}", family, paper=paper, position=setting, final=SEEN)


def _cnn_case(
    structure: str,
    dataset: str | None = None,
    **settings: Any,
) -> Case:
    family = FamilySpec("cnn", {"structure": structure, **settings})
    name, place = f"cnn-{structure}", structure
    if dataset:
        name, place = f"{name}-{dataset}", f"{place}, {dataset}"
    return Case(name, f"CNN {place}", family, position=place, dataset=dataset)


def _cifar_case(
    name: str,
    labels: tuple[int, ...] = (),
    position: str = "",
    kind: str = "normalized_cnn",
    **settings: Any,
) -> Case:
    """A convolutional network on CIFAR-10, or on some of its labels, measured on test data."""
    count = len(labels) or 10
    return Case(
        name,
        f"{position or f'{count} labels'}, held-out loss",
        FamilySpec(kind, settings, largest_side=16, labels=labels),
        1_000,
        position=position or f"{count} labels",
        final=TEST_LOSS,
        dataset="cifar10",
        has_digits=True,
        is_held_out=True,
        also=(TEST_COURSE,),
    )


def art_cases(embedded: bool = False) -> tuple[Case, ...]:
    """Neural art on photographs for tests: figure 8's two plots, and other horizons between.

    A quarter of the steps asks who is fast, where baselines are tuned for that; twice the steps
    whether the learned optimizer keeps going after what it was trained for.

    Args:
      embedded: whether pictures and features are the embedded ones. Their titles say so, and
        pictures have half the sides, so that a figure takes minutes.
    """
    name = "neural-art-embedded" if embedded else "neural-art"
    size = 32 if embedded else 64
    words = f" ({art.EMBEDDED})" if embedded else ""

    def case(
        suffix: str,
        title: str,
        num_steps: int,
        settings: Mapping[str, Any],
        **options: Any,
    ) -> Case:
        family = FamilySpec("neural_art", {"split": "test", **settings})
        title = f"{title}{words}"
        return Case(
            f"{name}{suffix}",
            f"neural art, {title}",
            family,
            num_steps,
            position=title,
            dataset=art.DATASET,
            **options,
        )

    new_style = {"size": 2 * size, "style": "test"}
    return (
        case("", f"{size} x {size}, training style", 128, {"size": size}),
        case("", f"{size} x {size}, a quarter of the steps", 32, {"size": size}),
        case(
            "",
            f"{size} x {size}, twice the steps",
            256,
            {"size": size},
            first_step=128,
            baselines=("Adam",),
            most_runs=20,
        ),
        case(
            "-double",
            f"{2 * size} x {2 * size}, new style",
            128,
            new_style,
            baselines=("NAG", "Adam", "AdamW-cosine"),  # a rate takes minutes there
            most_runs=20,
        ),
    )


def _coupled(
    title: str,
    family: str,
    recipe: str,
    source: str = "not in the papers",
    within: str | None = None,
) -> Figure:
    """Problems of ten coordinates for optimizers whose coordinates talk to each other, or do not.

    Three seeds of meta-training each.
    """
    case = Case(recipe, title, FamilySpec(family), position=100)
    names = [f"{kind}-{recipe}" for kind in ("lstm", "gac", "ntm-bfgs")]
    return Figure(
        title,
        source,
        (case,),
        axis="steps",
        num_runs=512,
        tune_runs=128,
        within=within,
        optimizers=_seeds(*names),
        references=tuple(baselines.REFERENCES),
    )


FIGURES = {
    "l2l-v1-fig4": _coupled(
        "Random quadratics",
        "quadratic",
        "quadratic",
        source="Andrychowicz et al. 2016, first version, figure 4, left",
    ),
    # Three seeds of each training; above stand the weights that ship.
    "l2l-quadratics": _coupled(
        "Random quadratics, three seeds of each training",
        "quadratic",
        "quadratic",
        source="Andrychowicz et al. 2016, figure 4, left; first version likewise",
        within="l2l-v1-fig4",
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
    # "More robust, and slightly better on some problems": the network that both were trained on at
    # half the sides, and networks that they were not.
    "preprocessing": Figure(
        "The logarithm and the sign of a gradient, and a rescaled gradient",
        "Andrychowicz et al. 2016, appendix A",
        (
            _shape_case(20, 1, position="base MLP"),
            _shape_case(40, 1, position="40 hidden units"),
            _shape_case(20, 2, position="2 hidden layers"),
            _activation_case("relu", {}),
        ),
        axis="architecture",
        optimizers=_seeds("ablation-lstm", "ablation-lstm-rescaled"),
        baselines=("Adam",),
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
    "l2l-fig8": Figure(
        "Neural art",
        "Andrychowicz et al. 2016, figure 8",
        art_cases(),
        axis="problem",
        optimizers="neural-art",
        references=("L-BFGS",),
        embedded=EMBEDDED_ART,
    ),
    "l2l-fig6": Figure(
        "Width and depth",
        "Andrychowicz et al. 2016, figure 6",
        _grid(),
        axis="hidden units of a layer",
        num_runs=50,
        baselines=NEAR,
    ),
    # The labels of CIFAR-5 and CIFAR-2 are the first ones, so that one LSTM-sub, which was trained
    # on the last five, has seen none of them.
    "l2l-fig7": Figure(
        "CIFAR-10, and subsets of its labels",
        "Andrychowicz et al. 2016, figure 7",
        (
            _cifar_case("cifar10"),
            _cifar_case("cifar5", (0, 1, 2, 3, 4)),
            _cifar_case("cifar2", (0, 1)),
        ),
        axis="labels",
        optimizers="lstm-cifar10,lstm-cifar10-sub",
        num_runs=20,
        tune_runs=5,
        frozen=(),
        baselines=CIFAR,
        pairs=(("lstm-cifar10-sub", "lstm-cifar10"),),
        embedded=EMBEDDED_CIFAR,
    ),
    "cifar-others": Figure(
        "What was learned on CIFAR-10, on another convolutional network",
        "not in the papers",
        (
            _cifar_case(
                "cifar10-2x12",
                position="2 convolutions of 12 channels",
                channels=(12, 12),
                hidden_sizes=(16,),
            ),
        ),
        axis="network",
        optimizers="lstm-cifar10,lstm-cifar10-going-on",
        num_runs=20,
        tune_runs=5,
        frozen=(),
        baselines=("Adam",),
        pairs=(("lstm-cifar10-going-on", "lstm-cifar10"),),
        embedded={"optimizers": "lstm-cifar10"},
    ),
    "rnnprop-fig2": Figure(
        "More steps",
        "Lv, Jiang, Li 2017, figure 2; in its 10,000 steps figure 3 as well",
        (_long_case(2_000), _long_case(10_000)),
        axis="steps",
        num_runs=20,
        baselines=LONG,
    ),
    "rnnprop-fig3": Figure(
        "10,000 steps",
        "Lv, Jiang, Li 2017, figure 3",
        (_long_case(10_000),),
        axis="steps",
        optimizers="rnnprop-mnist",
        num_runs=20,
        baselines=LONG,
        # The paper has Adam below RNNprop for rates from 0.004 to 0.01 alone.
        swept={"Adam": (0.001, 0.002, 0.0028, 0.004, 0.0057, 0.008, 0.0113, 0.016, 0.0226)},
    ),
    "long": Figure(
        "Thousands of steps",
        "not in the papers",
        (_long_case(1_000), _long_case(2_000), _long_case(10_000)),
        axis="steps",
        num_runs=20,
        optimizers="rnnprop-mnist,rnnprop-long,rnnprop-long:1,rnnprop-long:2",
        baselines=LONG,
    ),
    # Networks on which rnnprop-long was not taught.
    "long-others": Figure(
        "Thousands of steps on other networks",
        "not in the papers",
        tuple(
            _long_case(steps, name, title, **shape)
            for name, title, shape in (
                ("mlp-relu", "base MLP, ReLU", {"activation": "relu"}),
                ("mlp-2x20", "MLP, 2 x 20 hidden units", {"depth": 2}),
            )
            for steps in (1_000, 2_000, 10_000)
        ),
        axis="steps",
        num_runs=20,
        optimizers="rnnprop-long",
        baselines=("Adam",),
    ),
    # What the shortcuts of the recipes that ship cost, on images of 14 x 14.
    "shortcuts": Figure(
        "Trained as the papers have it, and with our shortcuts",
        "Andrychowicz et al. 2016, section 3; Lv, Jiang, Li 2017, section 5",
        (_mlp_case("mlp-half", "base MLP on images of half the sides", shrink=2, position=100),),
        axis="steps",
        optimizers=_seeds(
            *("ablation-lstm", "ablation-lstm-rate", "ablation-lstm-paper"),
            *("ablation-rnnprop", "ablation-rnnprop-paper"),
        ),
    ),
    "bfloat16": Figure(
        "A state in bfloat16",
        "not in the papers",
        (
            _mlp_case("mlp", "base MLP", position=100),
            _mlp_case("mlp", "base MLP", 200, position=200),
        ),
        axis="steps",
        optimizers="lstm-mnist,lstm-mnist+bfloat16,rnnprop-mnist,rnnprop-mnist+bfloat16",
        baselines=("Adam",),
        pairs=tuple((f"{name}+bfloat16", name) for name in ("lstm-mnist", "rnnprop-mnist")),
    ),
    "rnnprop-table2": Figure(
        "Activation functions",
        "Lv, Jiang, Li 2017, table 2 and figure 4",
        tuple(_activation_case(name, paper, final=SEEN) for name, paper in _ACTIVATIONS.items()),
        axis="activation",
    ),
    "rnnprop-fig6": Figure(
        "Deeper networks",
        "Lv, Jiang, Li 2017, figure 6; at five layers figure 5",
        tuple(_shape_case(20, depth, position=depth) for depth in range(1, 11)),
        axis="hidden layers",
        baselines=NEAR,
    ),
    "rnnprop-table3": Figure(
        "An LSTM that predicts a sine",
        "Lv, Jiang, Li 2017, table 3 and figure 8",
        (
            _sine_case(
                "sine",
                "default",
                {},
                {"Adam": 0.62, "Adagrad": 0.54, "lstm": 26.43, "rnnprop": 0.55},
            ),
            _sine_case(
                "sine-2",
                "two layers",
                {"num_layers": 2},
                {"Adam": 0.44, "Adagrad": 0.65, "lstm": 5.06, "rnnprop": 0.28},
            ),
            _sine_case(
                "sine-0.01",
                "noise 0.01",
                {"noise": 0.01},
                {"Adam": 0.39, "Adagrad": 0.50, "lstm": 22.04, "rnnprop": 0.36},
            ),
        ),
        axis="task",
        baselines=(*NEAR, "Adagrad"),  # the paper prints Adam and Adagrad
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
        baselines=("Adam", "NAG"),
    ),
    "rnnprop-table4": Figure(
        "Training with and without convex functions",
        "Lv, Jiang, Li 2017, table 4",
        tuple(_activation_case(name, _table_4(name), final=SEEN) for name in _TABLE_4),
        axis="activation",
        optimizers=_seeds(*(name for name in _table_4("relu") if "@" in name)),
        baselines=NEAR,
    ),
    # The paper says in a sentence that it saw this, and shows no numbers.
    "last-step": Figure(
        "The loss of the last step, and of all steps",
        "Lv, Jiang, Li 2017, section 5",
        tuple(_activation_case(name, {}, final=SEEN) for name in ("sigmoid", "relu")),
        axis="activation",
        optimizers=_seeds("ablation-rnnprop", "ablation-all-steps"),
        baselines=("Adam",),
    ),
    "rnnprop-fig9": Figure(
        "What the tricks of training do",
        "Lv, Jiang, Li 2017, figure 9",
        (_activation_case("relu", {}, num_steps=1_000),),
        axis="activation",
        optimizers=_seeds(
            "ablation-rnnprop", "ablation-no-scaling", "ablation-lstm", "ablation-lstm-tricks"
        ),
        num_runs=20,
        baselines=NEAR,
    ),
}
