"""The claims of Lv, Jiang, Li 2017."""

from experiments.claims.base import ALL, SECOND, Claim
from experiments.claims.verdicts import (
    GUESSING,
    Above,
    AnyCheck,
    Below,
    Comparable,
    Level,
    Lower,
    NeverDiverges,
)

RIVALS = ("SGD", "Momentum", "Adagrad", "Adadelta", "RMSprop", "Adam")  # its table 1

_UNTRAINED = 0.95 * GUESSING
_ACTIVATIONS = {"sigmoid": "mlp-100", "ReLU": "mlp-relu-100", "ELU": "mlp-elu-100"}
_ACTIVATIONS["tanh"] = "mlp-tanh-100"
_FEW_STEPS = "The paper has the number of steps in its picture alone; here 100."

_TWO_RIVALS = "Adam, the best of two rivals, stands for the best of all, NAG for the others."


def _depth(depth: int) -> str:
    return "mlp-100" if depth == 1 else f"mlp-{depth}x20-100"


def _rates() -> tuple[AnyCheck, ...]:
    """Figure 3: RNNprop above Adam at rates from 0.004 to 0.01, and below it at all others."""
    checks: list[AnyCheck] = []
    for rate in (0.001, 0.002, 0.0028, 0.004, 0.0057, 0.008, 0.0113, 0.016, 0.0226):
        kind = Above if 0.004 <= rate <= 0.01 else Below
        checks.append(kind("mlp-all-data-10000", "rnnprop-mnist", (f"Adam at {rate:g}",)))
    return tuple(checks)


_STEPS = (
    Claim(
        "base-rnnprop",
        "On the base MLP RNNprop ends below all traditional methods after 100 steps.",
        SECOND,
        "section 5.1; table 2, sigmoid",
        "rnnprop-table2",
        (Below("mlp-100", "rnnprop-mnist", RIVALS),),
    ),
    Claim(
        "base-lstm",
        "On the base MLP DMoptimizer, the 2016 LSTM, ends below all traditional methods after 100 "
        "steps.",
        SECOND,
        "section 5.1; table 2, sigmoid",
        "rnnprop-table2",
        (Below("mlp-100", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "base-order",
        "On the base MLP DMoptimizer ends below RNNprop after 100 steps.",
        SECOND,
        "section 5.1; table 2, sigmoid",
        "rnnprop-table2",
        (Below("mlp-100", "lstm-mnist", ("rnnprop-mnist",)),),
    ),
    Claim(
        "2000",
        "After 2,000 steps RNNprop is comparable with traditional methods.",
        SECOND,
        "figure 2, left; section 5.1",
        "long",
        (Comparable("mlp-all-data-2000", "rnnprop-mnist", RIVALS),),
    ),
    Claim(
        "2000-lstm",
        "After 2,000 steps DMoptimizer has failed: it ends far above RNNprop and traditional "
        "methods.",
        SECOND,
        "figure 2, left; sections 1.1 and 5.1",
        "rnnprop-fig2",
        (Above("mlp-all-data-2000", "lstm-mnist", (*RIVALS, "rnnprop-mnist")),),
    ),
    Claim(
        "10000",
        "After 10,000 steps RNNprop is still learning: its loss is lower than after 2,000.",
        SECOND,
        "figure 2, right; section 5.1",
        "long",
        (Lower("mlp-all-data-10000", "rnnprop-mnist", "mlp-all-data-2000"),),
    ),
    Claim(
        "10000-adam",
        "After 10,000 steps RNNprop is slightly worse than some traditional methods, which have "
        "overtaken it.",
        SECOND,
        "figure 2, right; section 5.1",
        "rnnprop-fig3",
        (Above("mlp-all-data-10000", "rnnprop-mnist", ("Adam",)),),
    ),
    Claim(
        "10000-lstm",
        "DMoptimizer stops lowering the loss after some 400 steps, and then the loss rises: it is "
        "higher after 10,000 than after 2,000.",
        SECOND,
        "figure 2, right; section 5.1",
        "rnnprop-fig2",
        (Lower("mlp-all-data-2000", "lstm-mnist", "mlp-all-data-10000"),),
    ),
    Claim(
        "rates",
        "After 10,000 steps Adam is below RNNprop for rates from 0.004 to 0.01 alone.",
        SECOND,
        "figure 3; section 5.1",
        "rnnprop-fig3",
        _rates(),
        printed="0.004 to 0.01",
    ),
    Claim(
        "other-long",
        "On other networks RNNprop goes on for long as well.",
        SECOND,
        "section 5.1, the last sentence",
        "long-others",
        tuple(
            Comparable(f"{network}-all-data-2000", "rnnprop-mnist", ("Adam",))
            for network in ("mlp-relu", "mlp-2x20")
        ),
        reason="The paper shows no result of it. --optimizers=rnnprop-mnist measures it.",
    ),
)

_OTHER_NETWORKS = (
    *(
        Claim(
            f"table-2-{name.lower()}",
            f"With {name} units in the base MLP RNNprop ends below all traditional methods.",
            SECOND,
            f"table 2, {name}; section 5.2" + ("; figure 4" if name == "ReLU" else ""),
            "rnnprop-table2",
            (Below(folder, "rnnprop-mnist", RIVALS),),
        )
        for name, folder in _ACTIVATIONS.items()
        if name != "sigmoid"
    ),
    *(
        Claim(
            f"table-2-lstm-{name.lower()}",
            f"With {name} units DMoptimizer fails: it ends above all traditional methods.",
            SECOND,
            f"table 2, {name}; sections 1.1 and 5.2",
            "rnnprop-table2",
            (Above(folder, "lstm-mnist", RIVALS),),
        )
        for name, folder in _ACTIVATIONS.items()
        if name != "sigmoid"
    ),
    Claim(
        "deep",
        "On perceptrons of two to eight hidden layers RNNprop is always below the traditional "
        "methods.",
        SECOND,
        "figure 6; section 5.3",
        "rnnprop-fig6",
        tuple(Below(_depth(depth), "rnnprop-mnist", RIVALS) for depth in range(2, 9)),
    ),
    Claim(
        "deep-end",
        "With more layers nothing lowers the loss within 100 steps: with ten of them RNNprop and "
        "traditional methods stay at guessing.",
        SECOND,
        "figure 6; section 5.3",
        "rnnprop-fig6",
        tuple(
            Level(_depth(10), name, least=_UNTRAINED)
            for name in ("rnnprop-mnist", "Adam", "RMSprop")
        ),
    ),
    Claim(
        "deep-adam",
        "On perceptrons of two to eight hidden layers Adam is the best of the traditional methods.",
        SECOND,
        "figure 6, below the picture",
        "rnnprop-fig6",
        tuple(Below(_depth(depth), "Adam", ("RMSprop",)) for depth in range(2, 9)),
    ),
    Claim(
        "five-layers",
        "With five hidden layers RNNprop is far below the traditional methods.",
        SECOND,
        "figure 5; section 5.3",
        "rnnprop-fig6",
        (Below(_depth(5), "rnnprop-mnist", RIVALS),),
    ),
    Claim(
        "cnn-small",
        "On the network c-c-p-f on MNIST RNNprop ends below the traditional methods.",
        SECOND,
        "figure 7, left; section 5.4.1",
        "rnnprop-fig7",
        (Below("cnn-c-c-p-f-100", "rnnprop-mnist", RIVALS),),
        reason=_FEW_STEPS,
    ),
    Claim(
        "cnn-deep",
        "On c-c-p-c-c-p-f-f on MNIST only the best traditional method is below RNNprop.",
        SECOND,
        "figure 7, centre; section 5.4.1",
        "rnnprop-fig7",
        (
            Above("cnn-c-c-p-c-c-p-f-f-100", "rnnprop-mnist", ("Adam",)),
            Below("cnn-c-c-p-c-c-p-f-f-100", "rnnprop-mnist", ("NAG",)),
        ),
        reason=f"{_FEW_STEPS} {_TWO_RIVALS}",
    ),
    Claim(
        "cnn-cifar",
        "On c-c-p-f on CIFAR-10 only the best traditional method is below RNNprop.",
        SECOND,
        "figure 7, right; section 5.4.1",
        "rnnprop-fig7",
        (
            Above("cnn-c-c-p-f-cifar10-100", "rnnprop-mnist", ("Adam",)),
            Below("cnn-c-c-p-f-cifar10-100", "rnnprop-mnist", ("NAG",)),
        ),
        reason=f"{_FEW_STEPS} {_TWO_RIVALS}",
    ),
    Claim(
        "cnn-lstm",
        "DMoptimizer, trained on the base MLP, trains none of the three convolutional networks.",
        SECOND,
        "section 5.4.1",
        "rnnprop-fig7",
        tuple(
            Level(f"cnn-{name}-100", "lstm-mnist", least=_UNTRAINED)
            for name in ("c-c-p-f", "c-c-p-c-c-p-f-f", "c-c-p-f-cifar10")
        ),
        reason=_FEW_STEPS,
    ),
    *(
        Claim(
            f"sine-{name.replace(' ', '-')}",
            f"On an LSTM that predicts a sine, {words}, RNNprop is comparable with the best "
            "traditional method, or better.",
            SECOND,
            f"table 3, {name}" + ("; figure 8" if name == "default" else "; section 5.4.2"),
            "rnnprop-table3",
            (Comparable(folder, "rnnprop-mnist", ("Adam", "Adagrad", "RMSprop")),),
        )
        for name, words, folder in (
            ("default", "as it stands", "sine-100"),
            ("two layers", "with two layers", "sine-2-100"),
            ("small noise", "with less noise", "sine-0.01-100"),
        )
    ),
    Claim(
        "sine-lstm",
        "On the LSTM that predicts a sine DMoptimizer ends far above all others.",
        SECOND,
        "table 3",
        "rnnprop-table3",
        tuple(
            Above(folder, "lstm-mnist", ("Adam", "Adagrad", "RMSprop", "rnnprop-mnist"))
            for folder in ("sine-100", "sine-2-100", "sine-0.01-100")
        ),
    ),
    Claim(
        "outliers",
        "No run of RNNprop had to be left out as an outlier.",
        SECOND,
        "section 5",
        ALL,
        (NeverDiverges("rnnprop-mnist"),),
        reason="Here: no run of it diverges.",
    ),
)

_CONTROLS = (
    *(
        Claim(
            f"convex-{name.lower()}",
            f"Training with convex functions needs fewer iterations: after a third of them RNNprop "
            f"is lower with them than without, with {name} units.",
            SECOND,
            "table 4; section 5.5",
            "rnnprop-table4",
            (Below(folder, "ablation-rnnprop@1/3", ("ablation-no-convex@1/3",)),),
            reason="The paper trains for 15,000 horizons, of which a third is 5,000; here it is "
            "500 of 1,500, on images of half the sides.",
        )
        for name, folder in (("sigmoid", "mlp-100"), ("ReLU", "mlp-relu-100"))
    ),
    Claim(
        "convex-end",
        "At the end of its training RNNprop is lower with convex functions than without.",
        SECOND,
        "table 4",
        "rnnprop-table4",
        tuple(
            Below(folder, "ablation-rnnprop@1", ("ablation-no-convex@1",))
            for folder in ("mlp-100", "mlp-relu-100")
        ),
    ),
    Claim(
        "scaling",
        "Without Random Scaling RNNprop is far worse after 1,000 steps of the base MLP with ReLU "
        "units.",
        SECOND,
        "figure 9; section 5.5",
        "rnnprop-fig9",
        (Below("mlp-relu-1000", "ablation-rnnprop", ("ablation-no-scaling",)),),
    ),
    Claim(
        "scaling-most",
        "Random Scaling is the most effective of the three contributions: with it and without the "
        "new model one is better off than with the new model and without it.",
        SECOND,
        "figure 9; section 5.5",
        "rnnprop-fig9",
        (Below("mlp-relu-1000", "ablation-lstm-tricks", ("ablation-no-scaling",)),),
    ),
    Claim(
        "lstm-tricks",
        "DMoptimizer is better when it is trained with the two tricks.",
        SECOND,
        "figure 9; section 5.5",
        "rnnprop-fig9",
        (Below("mlp-relu-1000", "ablation-lstm-tricks", ("ablation-lstm",)),),
    ),
    Claim(
        "last-step",
        "To minimize the loss of the last step alone gives slightly better results than that of "
        "all steps.",
        SECOND,
        "section 5",
        "last-step",
        tuple(
            Below(folder, "ablation-rnnprop", ("ablation-all-steps",))
            for folder in ("mlp-100", "mlp-relu-100")
        ),
        reason="The paper shows no numbers of it. Trained here on images of half the sides.",
    ),
    Claim(
        "scale-free",
        "Optimizers that divide by past gradients, RNNprop among them, do the same on a loss that "
        "is multiplied by a constant.",
        SECOND,
        "sections 3.2 and 4.3",
        test="tests/optimizers/test_rnnprop.py::test_it_does_not_see_the_size_of_the_gradient",
    ),
)

CLAIMS = (*_STEPS, *_OTHER_NETWORKS, *_CONTROLS)
