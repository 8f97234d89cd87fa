"""How each learned optimizer is meta-trained, as data; `experiments.train` carries a recipe out.

The next recipe is an entry of `RECIPES`.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import art
from experiments.families import FamilySpec
from experiments.recipe import SOME_COORDINATES, WINDOW, Recipe
from learned_opt.estimators import NRES, Adjoint, Estimator, Imitate, MetaLoss, Mixture
from learned_opt.meta.optimizer import ClippedAdam
from learned_opt.meta.settings import RandomSearch, Validation

# The meta-loss of each window's last step alone (Lv, Jiang, Li 2017, section 5).
LAST_STEP = MetaLoss(weights=(0.0,) * (WINDOW - 1) + (1.0,))


_KINDS = {
    "lstm": ("lstm", "the LSTM optimizer", "Andrychowicz et al. 2016, section 3.1"),
    "gac": (
        "lstm_gac",
        "LSTM+GAC: an LSTM optimizer with averages over all coordinates",
        "Andrychowicz et al. 2016, appendix D; first version, sections 2.2 and 3.1",
    ),
    "ntm-bfgs": (
        "ntm_bfgs",
        "NTM-BFGS: LSTM+GAC with a memory that all coordinates share",
        "Andrychowicz et al. 2016, appendix D; first version, sections 2.2 and 3.1",
    ),
    "ntm-lbfgs": (
        "ntm_lbfgs",
        "NTM-L-BFGS: NTM-BFGS with a memory of the last writes",
        "Andrychowicz et al. 2016, appendix D; first version, appendix B",
    ),
}


def _few_coordinates(
    kind: str,
    family: str,
    title: str,
    preset: str,
) -> Recipe:
    """An optimizer for functions of ten coordinates.

    All of these are trained alike, so that their kinds can be compared.
    """
    architecture, about, source = _KINDS[kind]
    return Recipe(
        f"{about[0].upper()}{about[1:]}, for {title}",
        architecture,
        source,
        preset=preset,
        family=FamilySpec(family),
        num_problems=16,
        num_epochs=40,
        episodes_per_epoch=50,
        estimator=Adjoint(WINDOW),
        learning_rate=0.003,
        validation=Validation(num_problems=128),
        good_for=f"what it was trained on, {title} in ten dimensions, for 100 steps",
        not_for="anything else: other dimensions, scales or longer runs were not trained for",
    )


def _on_few_coordinates() -> dict[str, Recipe]:
    """Three optimizers for each of three families of functions."""
    found = {}
    for name, family, title, preset in (
        ("quadratic", "quadratic", "random quadratics", "quadratic"),
        ("rotated", "rotated_quadratic", "rotated ill-conditioned quadratics", "mnist"),
        ("rosenbrock", "rosenbrock", "Rosenbrock's function", "quadratic"),
    ):
        for kind in ("lstm", "gac", "ntm-bfgs"):
            found[f"{kind}-{name}"] = _few_coordinates(kind, family, title, preset)
    return found


def _shrunk_mnist(kind: str, **arguments: Any) -> Recipe:
    """An optimizer for the base MLP on images of 14 x 14.

    Averages over coordinates need the derivatives of all coordinates, and so small images.
    """
    architecture, about, source = _KINDS[kind]
    return Recipe(
        f"{about[0].upper()}{about[1:]}, for the base MLP",
        architecture,
        source,
        arguments=arguments,
        family=FamilySpec("mlp", shrink=2),
        num_epochs=12,
        episodes_per_epoch=40,
        estimator=Adjoint(WINDOW),
        learning_rate=0.01,
        validation=Validation(num_problems=4, selection="last"),
    )


def _imitate_for_long(teacher: optax.GradientTransformation) -> Estimator:
    """Imitation alone, over 100 and 1,000 steps beside the horizon."""
    return Mixture(Imitate(teacher, window=25, coordinates=1_000), horizons=(100, 1_000))


_2016 = {
    "architecture": "lstm",
    "source": "Andrychowicz et al. 2016, section 3.2",
    "learning_rate": 0.01,
}
_2017 = {
    "architecture": "rnnprop",
    "source": "Lv, Jiang, Li 2017, section 5",
    "meta_loss": LAST_STEP,
    "num_epochs": 40,
    "episodes_per_epoch": 100,
    "validation": Validation(num_problems=4, selection="training"),
}
_TRICKS = {"scaling": 3.0, "convex": True}

# How both papers train, where the recipes of what ships take shortcuts: the exact meta-gradient, as
# it is, and a constant rate by random search (Andrychowicz et al. 2016, section 3). The LSTM is
# selected by validation in both papers, RNNprop by the average of its training losses (Lv, Jiang,
# Li 2017, section 5).
_PAPER = {
    "estimator": Adjoint(WINDOW),
    "optimizer": ClippedAdam(clip_norm=None, schedule="constant"),
    "learning_rate": RandomSearch(),
}
_PAPER_2016 = {**_PAPER, "validation": Validation(num_problems=20)}
_PAPER_2017 = {**_PAPER, "validation": Validation(num_problems=20, selection="training")}

# The ablation takes images of 14 x 14 and fewer horizons: a tenth of the time, five times.
_ABLATION = {
    "num_epochs": 15,
    "episodes_per_epoch": 100,
    "learning_rate": 0.001,
}


def _ablation_2016(about: str, **others: Any) -> Recipe:
    settings = {**_2016, **_ABLATION, "validation": Validation(num_problems=4, selection="last")}
    return Recipe(about, **{**settings, **others})


def _ablation_2017(
    about: str,
    others: Mapping[str, Any] = types.MappingProxyType({}),
    **tricks: Any,
) -> Recipe:
    family = FamilySpec("mlp", shrink=2, **tricks)
    return Recipe(about, family=family, **{**_2017, **_ABLATION, **others})


def floored_log(loss: jax.Array, first: jax.Array) -> jax.Array:
    """The logarithm of a loss, relative to the first one of its life.

    What lies below a twentieth counts less and less: where a network interpolates its data, the
    logarithm of the loss itself is all noise.
    """
    return jnp.log(loss / first + 0.05)


def _general(about: str, **others: Any) -> Recipe:
    """A general optimizer: whole lives of tiny tasks, of all lengths."""
    settings: dict[str, Any] = {
        "preset": None,
        "family": FamilySpec("tiny"),
        "dataset": "cifar10",
        "num_steps": 2_000,
        "num_problems": 8,
        "arguments": {"hidden_sizes": (), "learn_constants": False},
        "num_epochs": 5,
        "episodes_per_epoch": 4,
        "estimator": NRES(window=50, sigma=0.02, objective="late"),
        "meta_loss": MetaLoss(shape=floored_log),
        "learning_rate": 0.003,
        "validation": Validation(num_problems=2, num_steps=500, selection="last"),
    }
    source = "Celo2, arXiv 2602.19142; Li et al. 2023, arXiv 2304.12180"
    return Recipe(about, "general", source, **{**settings, **others})


# Andrychowicz et al. 2016, section 3.3: one LSTM for what is convolutional, with the normalizations
# that follow, and one for everything else.
CIFAR_FAMILY = FamilySpec("normalized_cnn", largest_side=16)
OTHER_CIFAR_FAMILY = dataclasses.replace(
    CIFAR_FAMILY, arguments={"channels": (12, 12), "hidden_sizes": (16,)}
)
CONV_AND_FC = types.MappingProxyType({"*[Cc]onv*": "conv", "*": "fc"})


def _cifar(about: str, **others: Any) -> Recipe:
    """Two LSTMs for a convolutional network, for 1,000 steps.

    Lives of 100 steps are trained on beside those of 1,000, so that the beginning is not forgotten.
    A window sees twenty steps, which is too little to learn the end of a life from: at first Adam
    is imitated besides.
    """
    settings: dict[str, Any] = {
        "parts": CONV_AND_FC,
        "family": CIFAR_FAMILY,
        "dataset": "cifar10",
        "num_steps": 1_000,
        "num_epochs": 6,
        "episodes_per_epoch": 8,
        "estimator": Mixture(
            Imitate(
                optax.adam(0.01),
                window=WINDOW,
                coordinates=1_000,
                beside=SOME_COORDINATES,
                fraction=0.6,
            ),
            horizons=(100,),
        ),
        "learning_rate": 0.01,
        "validation": Validation(num_problems=2, selection="last"),
    }
    source = "Andrychowicz et al. 2016, section 3.3"
    return Recipe(about, "lstm", source, **{**settings, **others})


def _neural_art(kind: str, **others: Any) -> Recipe:
    """An optimizer for pictures of 64 x 64 in one style."""
    architecture, about, _ = _KINDS[kind]
    settings: dict[str, Any] = {
        "preset": "neural-art",
        "family": FamilySpec("neural_art", {"pool": 1_800}),
        "dataset": art.DATASET,
        "num_steps": 128,
        "num_epochs": 10,
        "episodes_per_epoch": 80,
        "estimator": Adjoint(window=32, coordinates=1_000),
        "learning_rate": 0.01,
        "validation": Validation(num_problems=20),
        "validation_family": FamilySpec("neural_art", {"split": "validation", "pool": 20}),
        "embedded": {
            "family.arguments.size": 32,
            "validation_family.arguments.size": 32,
            "num_epochs": 5,
        },
    }
    settings["source"] = "Andrychowicz et al. 2016, section 3.4"
    title = f"{about[0].upper()}{about[1:]}, for neural art"
    return Recipe(title, architecture, **{**settings, **others})


RECIPES = {
    "lstm-mnist": Recipe(
        "The 2016 optimizer: an LSTM that reads gradients",
        **_2016,
        good_for="networks like that of its training, a perceptron with sigmoid units on images in "
        "[0, 1], for 100 to 200 steps",
        not_for="other activations, deeper networks, other scales of the loss, longer runs: it is "
        "expected to fail there (Lv, Jiang, Li 2017, table 2), as the measurements show",
    ),
    "rnnprop-mnist": Recipe(
        "The 2017 optimizer: RNNprop, trained with Random Scaling and convex functions",
        family=FamilySpec("mlp", **_TRICKS),
        **_2017,
        good_for="small networks of any activation, for hundreds of steps, where no learning rate "
        "is to be tuned",
        not_for="the lowest loss after ten thousand steps: a tuned Adam is better there",
    ),
    "lstm-mnist-paper": Recipe(
        "The 2016 optimizer, trained as the paper has it", **{**_2016, **_PAPER_2016}
    ),
    "rnnprop-mnist-paper": Recipe(
        "The 2017 optimizer, trained as the paper has it",
        family=FamilySpec("mlp", **_TRICKS),
        **{**_2017, **_PAPER_2017},
    ),
    "rnnprop-long": Recipe(
        "RNNprop that knows the time, for thousands of steps, trained by imitation",
        "rnnprop",
        "Lv, Jiang, Li 2017; imitation of Chen et al. 2020, arXiv 2010.09089, section 4.2",
        preset="long",
        family=FamilySpec("mlp", shrink=2, scaling=1.0),
        num_steps=10_000,
        num_epochs=16,
        episodes_per_epoch=1,
        estimator=_imitate_for_long,
        teacher="rnnprop-mnist, then Adam with 0.02 / (1 + t / 1500)",
        learning_rate=0.003,
        validation=Validation(num_problems=1, selection="last"),
        good_for="small networks of any activation, for hundreds to ten thousand steps, where "
        "nothing is to be tuned",
        not_for="the lowest loss where the number of steps is known beforehand and a rate can be "
        "tuned: AdamW with cosine decay is better there; large networks have not been tried",
    ),
    # A try to get beyond its teacher, by an estimator that sees whole lives. What it learns is the
    # decay of its steps alone: with the last layer too, at three times the rate, 1,000 windows made
    # it worse (docs/mnist.md).
    "rnnprop-long-nres": Recipe(
        "rnnprop-long, going on by evolution strategies over whole lives",
        "rnnprop",
        "Lv, Jiang, Li 2017; Li et al. 2023, arXiv 2304.12180",
        preset="long",
        family=FamilySpec("mlp", shrink=2, scaling=1.0),
        num_steps=10_000,
        num_problems=4,
        num_epochs=5,
        episodes_per_epoch=2,
        estimator=NRES(window=100, sigma=0.03, shortest=1_000, only=("decay",)),
        meta_loss=MetaLoss(shape="log"),
        learning_rate=0.001,
        validation=Validation(num_problems=2, num_steps=10_000, selection="last"),
        start="rnnprop-long",
    ),
    "general": _general(
        "An optimizer for networks that it was not trained on, with no learning rate to choose",
        good_for="perceptrons, autoencoders, small convolutional networks and Transformers from "
        "their usual initialisation, for hundreds to thousands of steps whose number is known "
        "beforehand, where no learning rate is to be tuned",
        not_for="runs whose length is not known (schedule='endless' is not trained); short runs of "
        "networks that begin with tiny weights, as its steps are relative to them; gains and "
        "biases of a network without its matrices; linear models and tanh units on inputs that are "
        "not standardised; perceptrons that come near a loss of zero, where a tuned Muon ends "
        "lower; networks far larger than those of the suite, which were not tried",
    ),
    "general-network": _general(
        "general with a network that adds to the direction, and constants that are learned",
        arguments={},
        num_epochs=10,
    ),
    "general-constants": _general(
        "general without its controller, its constants learned",
        arguments={"hidden_sizes": (), "controller_sizes": ()},
        num_epochs=10,
    ),
    "rnnprop-cnn": Recipe(
        "RNNprop, trained on a convolutional network with Random Scaling and convex functions",
        family=FamilySpec("cnn", {"structure": "c-c-p-f"}, **_TRICKS),
        **_2017,
    ),
    "lstm-cifar10": _cifar(
        "Two LSTMs for a convolutional network: one for convolutions, one for the rest",
        good_for="making figure 7 of the paper again, and going on from it (meta_train(phi=...))",
        not_for="training a network: a tuned Adam learns faster and ends lower on CIFAR-10 and on "
        "the subsets of its labels",
    ),
    "lstm-cifar10-sub": _cifar(
        "lstm-cifar10, trained on the labels that CIFAR-5 and CIFAR-2 do not have",
        family=dataclasses.replace(CIFAR_FAMILY, labels=(5, 6, 7, 8, 9)),
    ),
    "lstm-cifar10-going-on": _cifar(
        "lstm-cifar10, going on for a few minutes on another convolutional network",
        family=OTHER_CIFAR_FAMILY,
        num_epochs=3,
        episodes_per_epoch=2,
        estimator=SOME_COORDINATES,
        learning_rate=0.003,
        start="lstm-cifar10",
    ),
    "neural-art": _neural_art(
        "lstm",
        good_for="pictures in the style of others, theta in units of 64 grey levels, from noise, "
        "for about 128 steps",
        not_for="losses that are no neural art; other units of theta or weights of the terms were "
        "not trained for",
    ),
    # Its coordinates meet in a memory, so that none can be left out: smaller pictures.
    "neural-art-ntm-lbfgs": _neural_art(
        "ntm-lbfgs",
        source="Andrychowicz et al. 2016, first version, sections 2.2 and 3.4, appendix B",
        arguments={"history": 12},
        family=FamilySpec("neural_art", {"pool": 1_800, "size": 32}),
        estimator=Adjoint(window=32),
        num_epochs=4,
        episodes_per_epoch=20,
        embedded={},
        validation=Validation(num_problems=4),
        validation_family=FamilySpec("neural_art", {"split": "validation", "pool": 20, "size": 32}),
    ),
    **_on_few_coordinates(),
    "lstm-small": _shrunk_mnist("lstm"),
    "gac-small": _shrunk_mnist("gac"),
    "ntm-lbfgs-small": _shrunk_mnist("ntm-lbfgs", history=12),
    "ablation-rnnprop": _ablation_2017("RNNprop with both tricks", **_TRICKS),
    "ablation-no-convex": _ablation_2017("RNNprop without convex functions", scaling=3.0),
    "ablation-no-scaling": _ablation_2017("RNNprop without Random Scaling", convex=True),
    "ablation-lstm": _ablation_2016("The 2016 optimizer", family=FamilySpec("mlp", shrink=2)),
    # At the rate of `lstm-mnist`, ten times that of the other ablations.
    "ablation-lstm-rate": _ablation_2016(
        "The 2016 optimizer, at ten times the meta-rate",
        family=FamilySpec("mlp", shrink=2),
        learning_rate=0.01,
    ),
    "ablation-lstm-tricks": _ablation_2016(
        "The 2016 optimizer, trained with both tricks",
        family=FamilySpec("mlp", shrink=2, **_TRICKS),
        meta_loss=LAST_STEP,
        validation=Validation(num_problems=4, selection="training"),
    ),
    "ablation-all-steps": _ablation_2017(
        "RNNprop with both tricks, trained on the losses of all steps",
        {"meta_loss": MetaLoss()},
        **_TRICKS,
    ),
    # Gradients of the last layer are some hundredths at first: this scale makes them about one.
    "ablation-lstm-rescaled": _ablation_2016(
        "The 2016 optimizer, which reads rescaled gradients",
        family=FamilySpec("mlp", shrink=2),
        arguments={"preprocess_p": None, "input_scale": 30.0},
    ),
    "ablation-rnnprop-paper": _ablation_2017(
        "RNNprop, trained as the paper has it", _PAPER_2017, **_TRICKS
    ),
    "ablation-lstm-paper": _ablation_2016(
        "The 2016 optimizer, trained as the paper has it",
        family=FamilySpec("mlp", shrink=2),
        **_PAPER_2016,
    ),
}
