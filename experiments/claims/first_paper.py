"""The claims of Andrychowicz et al. 2016, of its final and of its first version."""

from experiments.claims.base import FIRST, FIRST_VERSION, Claim
from experiments.claims.verdicts import (
    Above,
    AnyCheck,
    Below,
    Comparable,
    Equal,
    MoreThan,
    Seen,
)

# What each version compares with.
RIVALS = ("SGD", "RMSprop", "Adam", "NAG")
RIVALS_FIRST_VERSION = ("SGD", "RMSprop", "Adam", "Adadelta", "Adagrad", "Rprop")

_QUADRATICS = "l2l-quadratics"  # three seeds of each training
_CIFAR, _ART = "l2l-fig7", "l2l-fig8"
_CIFAR_10, _CIFAR_5, _CIFAR_2 = "cifar10-1000", "cifar5-1000", "cifar2-1000"
_COURSE = "test loss over the run"  # its mean: the lower, the faster
_LSTM_CIFAR, _LSTM_SUB = "lstm-cifar10", "lstm-cifar10-sub"
_ART_64, _ART_128 = "neural-art-128", "neural-art-double-128"

_ONE_TASK = (
    "The paper watches the optimizer for neural art, on one problem; here {} on problems of its "
    "own training, many runs and coordinates."
)


def _depth(depth: int) -> tuple[AnyCheck, ...]:
    """Figure 6: all widths of one depth."""
    widths = (5, 10, 20, 35, 50)
    shapes = [f"mlp-{depth}x{width}-100" for width in widths]
    folders = ["mlp-100" if shape == "mlp-1x20-100" else shape for shape in shapes]
    return tuple(Below(folder, "lstm-mnist", RIVALS) for folder in folders)


_EXPERIMENTS = (
    Claim(
        "quadratics",
        "On random quadratics of ten dimensions the LSTM ends far below all hand-designed "
        "optimizers.",
        FIRST,
        "figure 4, left; section 3.1",
        _QUADRATICS,
        (Below("quadratic-100", "lstm-quadratic", RIVALS),),
    ),
    Claim(
        "mnist-100",
        "On the base MLP the LSTM ends well below SGD, RMSprop, Adam and NAG after 100 steps.",
        FIRST,
        "figure 4, centre; section 3.2",
        "l2l-fig4",
        (Below("mlp-100", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "mnist-rivals",
        "On the base MLP NAG, Adam and RMSprop are about equal.",
        FIRST,
        "section 3.2",
        "l2l-fig4",
        (Equal("mlp-100", "Adam", ("NAG", "RMSprop")),),
    ),
    Claim(
        "mnist-200",
        "Trained for 100 steps of the base MLP, the LSTM stays below the four when it goes on to "
        "200.",
        FIRST,
        "figure 4, right; section 3.2",
        "l2l-fig4",
        (Below("mlp-200", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "40-units",
        "With 40 hidden units instead of 20 the LSTM carries over, and stays below the four.",
        FIRST,
        "figure 5, left",
        "l2l-fig5",
        (Below("mlp-1x40-100", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "two-layers",
        "With two hidden layers instead of one the LSTM carries over, and stays below the four.",
        FIRST,
        "figure 5, centre",
        "l2l-fig5",
        (Below("mlp-2x20-100", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "relu",
        "With ReLU units the LSTM no longer carries over: hand-designed ones end below it.",
        FIRST,
        "figure 5, right",
        "l2l-fig5",
        (Above("mlp-relu-100", "lstm-mnist", RIVALS),),
    ),
    Claim(
        "grid-1",
        "With one hidden layer of 5 to 50 units the LSTM ends below the baselines.",
        FIRST,
        "figure 6, one layer",
        "l2l-fig6",
        _depth(1),
        reason="The paper shows the grid in its picture alone.",
    ),
    Claim(
        "grid-2",
        "With two hidden layers of 5 to 50 units the LSTM ends below the baselines.",
        FIRST,
        "figure 6, two layers",
        "l2l-fig6",
        _depth(2),
        reason="The sentence is about networks similar to that of the training. With five layers, "
        "of which the text says nothing, it stays at guessing here.",
    ),
    Claim(
        "cifar10",
        "On CIFAR-10 the LSTM, one for convolutions and one for what is fully connected, learns "
        "faster than every baseline: its mean loss on held-out data is lower over 1,000 steps.",
        FIRST,
        "figure 7, left; section 3.3",
        _CIFAR,
        (Below(_CIFAR_10, _LSTM_CIFAR, RIVALS, measure=_COURSE),),
    ),
    Claim(
        "cifar5",
        "It does so on five of the ten classes (CIFAR-5).",
        FIRST,
        "figure 7, centre; section 3.3",
        _CIFAR,
        (Below(_CIFAR_5, _LSTM_CIFAR, RIVALS, measure=_COURSE),),
    ),
    Claim(
        "cifar2",
        "It does so on two of the ten classes (CIFAR-2).",
        FIRST,
        "figure 7, right; section 3.3",
        _CIFAR,
        (Below(_CIFAR_2, _LSTM_CIFAR, RIVALS, measure=_COURSE),),
    ),
    Claim(
        "cifar-end",
        "On CIFAR-5 and CIFAR-2 its loss on held-out data is lower at the end as well.",
        FIRST,
        "figure 7, centre and right; section 3.3",
        _CIFAR,
        (Below(_CIFAR_5, _LSTM_CIFAR, RIVALS), Below(_CIFAR_2, _LSTM_CIFAR, RIVALS)),
    ),
    Claim(
        "cifar2-most",
        "Its gain on CIFAR-2 is larger than on CIFAR-5 and CIFAR-10.",
        FIRST,
        "section 3.3",
        _CIFAR,
        (
            MoreThan(_CIFAR_2, _LSTM_CIFAR, _CIFAR_10, "Adam", measure=_COURSE),
            MoreThan(_CIFAR_2, _LSTM_CIFAR, _CIFAR_5, "Adam", measure=_COURSE),
        ),
    ),
    Claim(
        "cifar-sub",
        "On CIFAR-5 and CIFAR-2 an LSTM that was trained on the other classes alone is hardly "
        "worse.",
        FIRST,
        "figure 7, centre and right; section 3.3",
        _CIFAR,
        (
            Comparable(_CIFAR_5, _LSTM_SUB, (_LSTM_CIFAR,), measure=_COURSE),
            Comparable(_CIFAR_2, _LSTM_SUB, (_LSTM_CIFAR,), measure=_COURSE),
        ),
    ),
    Claim(
        "cifar-two-lstms",
        "For that convolutional network one LSTM for all kinds of parameters is not enough.",
        FIRST,
        "section 3.3",
        reason="No recipe trains one LSTM for that network; the paper shows no curve of it either.",
    ),
    Claim(
        "art-64",
        "On neural art at 64 x 64 pixels and with the style of its training the LSTM ends below "
        "all baselines.",
        FIRST,
        "figure 8, left; section 3.4",
        _ART,
        (Below(_ART_64, "neural-art", RIVALS),),
    ),
    Claim(
        "art-128",
        "On neural art it does so at 128 x 128 pixels and with another style, on 49,152 parameters "
        "where it was trained on 12,288.",
        FIRST,
        "figure 8, right; sections 3.4 and 4",
        _ART,
        (Below(_ART_128, "neural-art", RIVALS),),
    ),
    Claim(
        "preprocessing",
        "Two numbers for each gradient, its logarithm and its sign, are more robust than a "
        "rescaled gradient, and slightly better on some problems.",
        FIRST,
        "appendix A",
        "preprocessing",
        tuple(
            Below(folder, "ablation-lstm", ("ablation-lstm-rescaled",))
            for folder in ("mlp-1x40-100", "mlp-2x20-100", "mlp-relu-100")
        ),
        reason="The paper shows no numbers of it. Robust is taken to be: lower on networks that "
        "neither was trained on. Trained here on images of half the sides.",
    ),
    Claim(
        "gac-clips",
        "Averages over coordinates are enough to clip a gradient by its norm, where a controller "
        "can square it.",
        FIRST,
        "appendix D",
        test="tests/optimizers/test_lstm_gac.py::"
        "test_averages_and_squares_clip_a_gradient_by_its_norm",
    ),
    Claim(
        "ntm-simulates",
        "NTM-BFGS with one read head, three write heads and two averages can carry out BFGS.",
        FIRST,
        "appendix D",
        test="tests/optimizers/test_ntm.py::"
        "test_one_read_three_writes_and_two_averages_carry_out_bfgs",
    ),
)

_VERSION_ONE = (
    Claim(
        "v1-quadratics",
        "On random quadratics LSTM, LSTM+GAC and NTM-BFGS end far below all baselines.",
        FIRST_VERSION,
        "figure 4, left; section 3.1",
        _QUADRATICS,
        tuple(
            Below("quadratic-100", f"{kind}-quadratic", RIVALS_FIRST_VERSION)
            for kind in ("lstm", "gac", "ntm-bfgs")
        ),
    ),
    Claim(
        "v1-global",
        "On random quadratics LSTM+GAC and NTM-BFGS, which see all coordinates, end below the "
        "LSTM.",
        FIRST_VERSION,
        "figure 4, left; section 3.1",
        _QUADRATICS,
        tuple(
            Below("quadratic-100", f"{kind}-quadratic", ("lstm-quadratic",))
            for kind in ("gac", "ntm-bfgs")
        ),
    ),
    Claim(
        "v1-adam",
        "On the base MLP Adam is the best of the baselines.",
        FIRST_VERSION,
        "figure 4, centre; section 3.2",
        "l2l-fig4",
        (Below("mlp-100", "Adam", ("SGD", "RMSprop", "Adadelta", "Adagrad", "Rprop")),),
    ),
    Claim(
        "v1-mnist",
        "The LSTM ends below all baselines on the base MLP, after 100 steps, and after 200 with "
        "rates tuned for 200.",
        FIRST_VERSION,
        "figure 4, centre and right; section 3.2",
        "l2l-fig4",
        tuple(
            Below(folder, "lstm-mnist", RIVALS_FIRST_VERSION) for folder in ("mlp-100", "mlp-200")
        ),
    ),
    Claim(
        "v1-talking-mnist",
        "On the base MLP LSTM+GAC and NTM-BFGS are about as good as the LSTM, and bring nothing.",
        FIRST_VERSION,
        "sections 3.2 and 5",
        "l2l-v1-mnist",
        (Equal("mlp-half-100", "lstm-small", ("gac-small", "ntm-lbfgs-small")),),
        reason="On images of half the sides; NTM-BFGS is that with a bounded memory.",
    ),
    Claim(
        "v1-cifar",
        "On CIFAR-10 the LSTM ends where the baselines end.",
        FIRST_VERSION,
        "figure 7; section 3.3",
        _CIFAR,
        (Equal(_CIFAR_10, _LSTM_CIFAR, ("Adam",)),),
    ),
)


def _watched(
    name: str,
    optimizer: str,
    reason: str = "",
) -> tuple[Claim, ...]:
    """What figures 10 to 13 say, of one optimizer."""
    figure = f"watching/{optimizer}"
    return (
        Claim(
            f"{name}-larger",
            f"The updates of {optimizer} are larger than those of SGD and Adam on the same "
            "gradients.",
            FIRST,
            "figure 10; appendix B",
            figure,
            (
                Seen("size of updates over tuned SGD's", least=1.0),
                Seen("size of updates over tuned Adam's", least=1.0),
            ),
            reason=reason,
        ),
        Claim(
            f"{name}-momentum",
            f"{optimizer} has some kind of momentum, with a shorter time scale than Adam's.",
            FIRST,
            "figure 10; appendix B",
            figure,
            (
                Seen("weight of past gradients", least=0.0),
                Seen("time scale over Adam's", most=1.0),
            ),
            reason=reason,
        ),
        Claim(
            f"{name}-step",
            f"As a function of the gradient of its moment the update of {optimizer} is often a "
            "step, as Adam's is.",
            FIRST,
            "figures 11 to 13; appendix B",
            figure,
            (
                Seen("share of curves that are step-like", least=0.5),
                Seen("share of Adam's curves that are step-like", least=0.5),
            ),
            reason=reason,
        ),
        Claim(
            f"{name}-against",
            f"Now and then the step of {optimizer} goes the other way than Adam's: the larger the "
            "gradient, the larger the update.",
            FIRST,
            "figures 11 to 13; appendix B",
            figure,
            (Seen("share of curves that rise with the gradient", least=0.0),),
            reason=reason,
        ),
        Claim(
            f"{name}-first",
            f"At its first step the updates of {optimizer} lean to positive values.",
            FIRST_VERSION,
            "figure 10",
            figure,
            (Seen("first update at a gradient of zero over its size", least=0.0),),
            reason=reason,
        ),
    )


CLAIMS = (
    *_EXPERIMENTS,
    *_watched(
        "art",
        "neural-art",
        "The paper looks at one problem; here 20 photographs for tests, at 64 x 64.",
    ),
    *_watched("watched", "lstm-mnist", _ONE_TASK.format("lstm-mnist")),
    *_VERSION_ONE,
)
