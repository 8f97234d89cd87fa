"""How each learned optimizer is meta-trained, as data; `experiments.train` carries a recipe out.

A recipe more is an entry of `RECIPES`.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

import learned_opt
from experiments import teachers
from learned_opt import data, optimizees

SNAPSHOTS = 3

NETWORK = "mlp"  # the base MLP, the one family that needs a data set
FAMILIES = {  # functions of `optimizees`, and what they are
    "quadratic": "random quadratics",
    "rotated_quadratic": "rotated ill-conditioned quadratics",
    "rosenbrock": "Rosenbrock's function",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One meta-training.

    Attributes:
      about: one line.
      architecture: the name of the function that builds the optimizer.
      source: paper and section.
      family: one of `FAMILIES`, or NETWORK for the base MLP, one hidden layer of 20 sigmoid units.
      preset: of the architecture.
      arguments: other arguments of the architecture.
      scaling: range L of Random Scaling, 0 for none (Lv, Jiang, Li 2017, section 4.1).
      convex: whether convex functions are combined with the problem (the same, section 4.2).
      last_steps: how many steps at each window's end the meta-loss is of (the same, section 5: one); 0 for all.
      selection: "validation", "training" or "last", see `meta_train`.
      horizons: one, or several, for a mixture of them.
      teacher: who is imitated, and nothing else learned: one of `teachers.TEACHERS`, or empty.
      shrink: by which factor the images' sides are shrunk.
      window: steps of one meta-gradient.
      num_problems: problems that live at once.
      coordinates: from how many a meta-gradient is estimated, 0 for all.
      learning_rate: of Adam on phi.
      num_epochs: epochs.
      episodes_per_epoch: horizons of an epoch.
      num_validation: validation problems.
      good_for: for the card.
      not_for: for the card.
    """

    about: str
    architecture: str
    source: str
    family: str = NETWORK
    preset: str = "mnist"
    arguments: Mapping = dataclasses.field(default_factory=dict)
    scaling: float = 0.0
    convex: bool = False
    last_steps: int = 0
    selection: str = "last"
    horizons: tuple = (100,)
    teacher: str = ""
    shrink: int = 1
    window: int = 20
    num_problems: int = 1
    coordinates: int = 1_000
    learning_rate: float = 0.001
    num_epochs: int = 100
    episodes_per_epoch: int = 40
    num_validation: int = 10
    good_for: str = ""
    not_for: str = ""

    def optimizer(self):
        """The `LearnedOptimizer`."""
        return getattr(learned_opt, self.architecture)(self.preset, **self.arguments)

    @property
    def needs_data(self):
        """Whether the problem is made of a data set."""
        return self.family == NETWORK

    def problem(self, dataset):
        """The `Optimizee`, on a data set where it needs one."""
        if self.needs_data:
            problem = optimizees.mlp(
                data.shrink(dataset, self.shrink) if self.shrink > 1 else dataset
            )
        else:
            problem = getattr(optimizees, self.family)()
        problem = optimizees.random_scaling(problem, self.scaling) if self.scaling else problem
        return optimizees.with_convex(problem) if self.convex else problem

    def settings(self):
        """The arguments of `meta_train`."""
        horizons = (
            self.horizons[0] if len(self.horizons) == 1 else learned_opt.Mixture(self.horizons)
        )
        imitation = (
            learned_opt.Imitation(teachers.TEACHERS[self.teacher](), alone=True)
            if self.teacher
            else None
        )
        return {
            "num_steps": horizons,
            "window": self.window,
            "num_problems": self.num_problems,
            "num_epochs": self.num_epochs,
            "episodes_per_epoch": self.episodes_per_epoch,
            "learning_rate": self.learning_rate,
            "num_validation": self.num_validation,
            "weights": jnp.zeros(self.window).at[-self.last_steps :].set(1.0)
            if self.last_steps
            else None,
            "selection": self.selection,
            "imitation": imitation,
            "coordinates": self.coordinates or None,
        }


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


def _few_coordinates(kind, family, preset):
    """An optimizer for functions of few coordinates, all of it trained alike, so that kinds can be compared."""
    architecture, about, source = _KINDS[kind]
    return Recipe(
        f"{about[0].upper()}{about[1:]}, for {FAMILIES[family]}",
        architecture,
        source,
        family=family,
        preset=preset,
        selection="validation",
        num_problems=16,
        coordinates=0,
        learning_rate=0.003,
        num_epochs=40,
        episodes_per_epoch=50,
        num_validation=128,
        good_for=f"what it was trained on, {FAMILIES[family]} in ten dimensions, for 100 steps",
        not_for="anything else: other dimensions, scales or longer runs were not trained for",
    )


def _shrunk_mnist(kind, **arguments):
    """An optimizer for the base MLP, trained on images of 14 x 14: averages need the derivatives of all coordinates."""
    architecture, about, source = _KINDS[kind]
    return Recipe(
        f"{about[0].upper()}{about[1:]}, for the base MLP",
        architecture,
        source,
        arguments=arguments,
        shrink=2,
        coordinates=0,
        learning_rate=0.01,
        num_epochs=12,
        episodes_per_epoch=40,
        num_validation=4,
    )


_2016 = {
    "architecture": "lstm",
    "source": "Andrychowicz et al. 2016, section 3.2",
    "learning_rate": 0.01,
}
_2017 = {
    "architecture": "rnnprop",
    "source": "Lv, Jiang, Li 2017, section 5",
    "last_steps": 1,
    "selection": "training",
    "num_epochs": 40,
    "episodes_per_epoch": 100,
    "num_validation": 4,
}
_TRICKS = {"scaling": 3.0, "convex": True}
# The ablation, on images of 14 x 14 and for fewer horizons: a tenth of the time, five times.
_ABLATION = {
    "shrink": 2,
    "num_epochs": 15,
    "episodes_per_epoch": 100,
    "num_validation": 4,
    "learning_rate": 0.001,
}

RECIPES = {
    "lstm-mnist": Recipe(
        "The 2016 optimizer: an LSTM that reads gradients",
        **_2016,
        good_for="networks like that of its training, a perceptron with sigmoid units on images in [0, 1], for 100 to "
        "200 steps",
        not_for="other activations, deeper networks, other scales of the loss, longer runs: it is expected to fail "
        "there (Lv, Jiang, Li 2017, table 2), as the measurements show",
    ),
    "rnnprop-mnist": Recipe(
        "The 2017 optimizer: RNNprop, trained with Random Scaling and convex functions",
        **_2017,
        **_TRICKS,
        good_for="small networks of any activation, for hundreds of steps, where no learning rate is to be tuned",
        not_for="the lowest loss after ten thousand steps: a tuned Adam is better there",
    ),
    "rnnprop-long": Recipe(
        "RNNprop that knows the time, for thousands of steps, trained by imitation",
        "rnnprop",
        "Lv, Jiang, Li 2017; imitation of Chen et al. 2020, arXiv 2010.09089, section 4.2",
        preset="long",
        teacher="rnnprop-mnist, then Adam with 0.02 / (1 + t / 1500)",
        horizons=(100, 1_000, 10_000),
        scaling=1.0,
        shrink=2,
        window=25,
        learning_rate=0.003,
        num_epochs=16,
        episodes_per_epoch=1,
        num_validation=1,
        good_for="small networks of any activation, for hundreds to ten thousand steps, where nothing is to be tuned",
        not_for="the lowest loss where the number of steps is known beforehand and a rate can be tuned: AdamW with "
        "cosine decay is better there; large networks have not been tried",
    ),
    **{
        f"{kind}-{name}": _few_coordinates(kind, family, preset)
        for name, family, preset in (
            ("quadratic", "quadratic", "quadratic"),
            ("rotated", "rotated_quadratic", "mnist"),
            ("rosenbrock", "rosenbrock", "quadratic"),
        )
        for kind in ("lstm", "gac", "ntm-bfgs")
    },
    "lstm-small": _shrunk_mnist("lstm"),
    "gac-small": _shrunk_mnist("gac"),
    "ntm-lbfgs-small": _shrunk_mnist("ntm-lbfgs", history=12),
    "ablation-rnnprop": Recipe("RNNprop with both tricks", **{**_2017, **_TRICKS, **_ABLATION}),
    "ablation-no-convex": Recipe(
        "RNNprop without convex functions", **{**_2017, **_ABLATION}, scaling=3.0
    ),
    "ablation-no-scaling": Recipe(
        "RNNprop without Random Scaling", **{**_2017, **_ABLATION}, convex=True
    ),
    "ablation-lstm": Recipe("The 2016 optimizer", **{**_2016, **_ABLATION}),
    "ablation-lstm-tricks": Recipe(
        "The 2016 optimizer, trained with both tricks",
        **{**_2016, **_TRICKS, **_ABLATION, "last_steps": 1, "selection": "training"},
    ),
}
