"""What each estimator of the meta-gradient is for: time, memory, noise, and what it teaches.

The optimizee is a perceptron with one small hidden layer on the embedded digits, with minibatches
of 32. The optimizer is a small learned_opt.rnnprop("long"). The meta-loss is the mean loss over a
life. Its gradient is estimated by

  adjoint              estimators.Adjoint, in windows of 20 steps
  adjoint, window 100  the same in windows of 100
  autodiff             estimators.Autodiff with stop_gradient=False, through the optimizees' second
                       derivatives as well; in windows of 20
  imitate              estimators.Imitate of Adam with a rate that decays over the horizon, and
                       that is tuned; in windows of 20
  mixture              estimators.Mixture of adjoint, on this horizon and all shorter ones
  pes, nres            estimators.PES and NRES, in windows of 50, on --num_pairs pairs; all lives
                       have the whole horizon

on --num_problems problems at once.

1. A meta-step, from one window to the next, for the longest horizon. All are timed in turns within
each round, and the ratios are taken round by round.

  steps            of optimizees that it takes, over all lives
  time / adjoint   how many times as long as adjoint's it takes; median over rounds (quartiles)
  temporary MiB    memory that it needs while it runs, beside its arguments and results

2. Noise: estimates at fixed weights, over whole lives, on many sets of problems. Once the weights
are untrained, and once they are the best ones that any run of the third part has found for this
horizon.

  noise            the norm of one estimate's standard deviation, over the norm of its mean.
                   "unresolved": the draws are too few to tell the mean from zero
  bias (error)     for the shortest horizon: the distance of the mean from the gradient through the
                   whole life, over the norm of that; and the standard error of this distance. A
                   bias below its error may be none. Imitation has none: it minimizes another loss

The whole gradient is that of autodiff in one window. It has the second derivatives, which adjoint
leaves out in any window.

3. The meta-loss. Every estimator has the same time, --seconds for each horizon and seed, and the
same Adam on the weights, whose rate decays over that time. Compilation and validation are not on
the clock. The table has the meta-loss of the last weights on fresh lives, the same for all: the
median over --seeds (smallest - largest). The picture shows the meta-loss over the time: thin lines
for seeds, and a thick one for their median.

The default run takes about fifteen minutes on two CPU cores. --seconds and --seeds change most of
that.
"""

from typing import Any

import numpy as np
import tqdm
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import common, estimating
from benchmarks.estimating import Ground, Lab
from learned_opt.estimators import Imitate

ADAM, UNTRAINED = "Adam, decaying", "untrained"

_SECONDS = common.define_positive(
    "seconds",
    None,
    "The budget of a run: seconds of training for each estimator, horizon and seed; by default 8, "
    "with --quick 0.02.",
)
_LEARNING_RATE = common.define_positive(
    "learning_rate", 0.005, "Meta-learning rate of Adam at the start of a run."
)
_horizons = common.define_numbers_or(
    "horizons", [100, 1_000, 10_000], [10, 20], "Lengths of lives, in steps"
)
_seeds = common.define_count("seeds", 3, 1, "Seeds of meta-training")
_num_problems = common.define_count("num_problems", 4, 2, "Problems that live at once")
_num_pairs = common.define_count("num_pairs", 16, 2, "Pairs of lives that PES and NRES have")
_num_validation = common.define_count("num_validation", 8, 2, "Lives that measure the meta-loss")
_points = common.define_count("points", 4, 2, "How often a run is validated")
_noise_steps = common.define_count(
    "noise_steps", 10_000, 40, "Noise is measured on so many steps at least, and on three lives"
)
_width = common.define_count("width", 4, 4, "Width of the optimizee's hidden layer")
flags.adopt_module_key_flags(common)


def make_ground(quick: bool) -> Ground:
    """The `Ground` that the flags ask for.

    Raises:
      ValueError: unless all horizons are whole numbers of all windows.
    """
    short, long = (5, 10) if quick else (20, 100)
    horizons = tuple(_horizons())
    for horizon in horizons:
        if horizon % long:
            raise ValueError(f"--horizons must be multiples of {long} steps, got {horizon}.")
    if quick:  # a single array of parameters compiles in a fraction of the time
        opt = learned_opt.lstm(hidden_sizes=(3,))
        problem = learned_opt.optimizees.quadratic(3)
    else:
        opt = learned_opt.rnnprop("long", hidden_sizes=(4,), input_size=4)
        problem = learned_opt.optimizees.mlp(width=_width(), batch_size=32)
    return Ground(
        opt=opt,
        problem=problem,
        short=short,
        long=long,
        horizons=horizons,
        num_problems=_num_problems(),
        num_pairs=_num_pairs(),
        num_validation=_num_validation(),
        learning_rate=_LEARNING_RATE.value,
        seconds=_SECONDS.value or common.by_default(8.0, 0.02),
        num_points=_points(),
        noise_steps=_noise_steps(),
    )


class Measured:
    """All that is measured, part after part."""

    def __init__(
        self,
        ground: Ground,
        num_seeds: int,
        rounds: int,
    ) -> None:
        self.lab = Lab(ground)
        self._seeds = range(num_seeds)
        self.adams, self.entered = {}, {}
        for horizon in tqdm.tqdm(ground.horizons, "tuning Adam", unit="horizon", leave=False):
            adam = estimating.tuned_adam(ground, horizon)
            self.adams[horizon] = adam
            self.entered[horizon] = estimating.entrants(ground, horizon, adam.tx)
            self.lab.compile(self.entered[horizon], horizon)
        longest = ground.horizons[-1]
        self.steps = self.lab.time_meta_steps(self.entered[longest], longest, rounds)
        self.references = self._references()
        self.runs, best = self._raced()
        self.noise = self._noise(best)

    def _references(self) -> list[dict]:
        """The meta-losses of Adam and of untrained weights."""
        opt = self.lab.ground.opt
        references = []
        for horizon, adam in self.adams.items():
            untrained = []
            for seed in self._seeds:
                untrained.append(self.lab.meta_loss((opt, self.lab.phi(seed)), horizon))
            reference = {
                "horizon": horizon,
                "adam_learning_rate": adam.learning_rate,
                "adam": self.lab.meta_loss(adam.tx, horizon),
                "untrained": untrained,
            }
            references.append(reference)
        return references

    def _raced(self) -> tuple[list[dict], dict[int, Any]]:
        """Every run, and the best weights of each horizon."""
        turns = []
        for horizon, entered in self.entered.items():
            for seed in self._seeds:
                # All estimators of a seed run one after another, in an order that rotates.
                names = list(entered)
                first = seed % len(names)
                turns += [(horizon, seed, name) for name in names[first:] + names[:first]]
        runs, losses, best = [], {}, {}
        for horizon, seed, name in tqdm.tqdm(turns, "meta-training", unit="run"):
            run, phi = self.lab.train(self.entered[horizon][name], seed, horizon)
            runs.append(run)
            loss = run["meta_losses"][-1]
            if loss <= losses.get(horizon, np.inf):
                losses[horizon], best[horizon] = loss, phi
        return runs, best

    def _noise(self, best: dict[int, Any]) -> list[dict]:
        """Noise at untrained weights and at the best ones; bias for the shortest horizon."""
        shortest = min(self.entered)
        turns = []
        for horizon, entered in self.entered.items():
            turns += [(horizon, entrant) for entrant in entered.values()]
        whole: dict[str, Any] = {}
        results = []
        for horizon, entrant in tqdm.tqdm(turns, "noise", unit="estimator"):
            result = {"horizon": horizon, "estimator": entrant.name}
            weights = {"untrained": self.lab.phi(0), "trained": best.get(horizon)}
            for which, phi in weights.items():
                if phi is None:  # no run of this horizon had a finite loss
                    continue
                draws = self.lab.draw(entrant, phi, horizon)
                result[f"noise_{which}"] = estimating.noise_of(draws)
                result[f"sets_{which}"] = len(draws.means)
                if horizon == shortest and not isinstance(entrant.estimator, Imitate):
                    if which not in whole:
                        whole[which] = self.lab.draw_whole(phi, horizon)
                    result[f"bias_{which}"] = estimating.bias_of(draws, whole[which])
            results.append(result)
        return results


def steps_table(results: list[dict]) -> str:
    """Meta-steps as a Markdown table."""
    header = ["estimator", "steps", "time / adjoint", "temporary MiB"]
    rows = []
    for result in results:
        row = [
            result["estimator"],
            f"{result['steps']:,}",
            result["time_over_adjoint"],
            common.number(result["temporary_bytes"] / common.MIB),
        ]
        rows.append(row)
    if common.show_milliseconds():
        header.append("ms")
        for row, result in zip(rows, results, strict=True):
            row.append(common.spread(np.multiply(1e3, result["seconds"])))
    return common.table(header, rows)


def noise_table(results: list[dict]) -> str:
    """Noise and bias as a Markdown table."""
    header = [
        "life",
        "estimator",
        "noise, untrained",
        "noise, trained",
        "bias (error), untrained",
        "bias (error), trained",
    ]
    rows = []
    for result in results:
        row = [f"{result['horizon']:,}", result["estimator"]]
        row += [_noise_cell(result, which) for which in ("untrained", "trained")]
        row += [_bias_cell(result, which) for which in ("untrained", "trained")]
        rows.append(row)
    return common.table(header, rows)


def _noise_cell(result: dict, which: str) -> str | None:
    if f"noise_{which}" not in result:
        return None
    noise = result[f"noise_{which}"]
    return "unresolved" if noise is None else common.number(noise)


def _bias_cell(result: dict, which: str) -> str | None:
    bias = result.get(f"bias_{which}")
    if bias is None:
        return None
    return f"{common.number(bias['bias'])} ({common.number(bias['error'])})"


def race_table(runs: list[dict], references: list[dict]) -> str:
    """The last meta-losses as a Markdown table, a column for each horizon."""
    horizons = common.column(references, "horizon")
    header = ["estimator", *(f"lives of {horizon:,}" for horizon in horizons)]
    names = sorted(common.grouped(runs, "estimator"), key=_order(runs))
    rows = [[name, *(_loss_cell(runs, name, horizon) for horizon in horizons)] for name in names]
    rows.append([ADAM, *(common.number(reference["adam"]) for reference in references)])
    rows.append([UNTRAINED, *(_extremes(reference["untrained"]) for reference in references)])
    return common.table(header, rows)


def _order(runs: list[dict]) -> Any:
    """A key that sorts estimators as the longest horizon has them."""
    longest = max(common.column(runs, "horizon"))
    first_seed = [run for run in runs if run["horizon"] == longest]
    names = list(common.grouped(first_seed, "estimator"))
    return names.index


def _loss_cell(
    runs: list[dict],
    name: str,
    horizon: int,
) -> common.Spread | None:
    mine = _runs_of(runs, name, horizon)
    if not mine:
        return None
    return _extremes([run["meta_losses"][-1] for run in mine])


def _runs_of(
    runs: list[dict],
    name: str,
    horizon: int,
) -> list[dict]:
    of_name = [run for run in runs if run["estimator"] == name]
    return [run for run in of_name if run["horizon"] == horizon]


def _extremes(losses: list[float]) -> common.Spread:
    """Median, smallest and largest: of three seeds quartiles say little."""
    return common.Spread(min(losses), float(np.median(losses)), max(losses))


def as_text(measured: Measured) -> str:
    """The three tables, each under a line that says what it is."""
    ground = measured.lab.ground
    coordinates = common.num_coordinates(ground.problem)
    budget = common.number(ground.seconds)
    parts = [
        f"A meta-step, {coordinates:,} coordinates, lives of {ground.horizons[-1]:,} steps:",
        steps_table(measured.steps),
        "Noise and bias of one estimate:",
        noise_table(measured.noise),
        f"Meta-loss after {budget} seconds of training:",
        race_table(measured.runs, measured.references),
    ]
    return "\n\n".join(parts)


def as_figure(measured: Measured) -> figure.Figure:
    """The meta-loss over the time of training, a panel for each horizon."""
    ground = measured.lab.ground
    fig, axes = common.new_axes(len(ground.horizons))
    names = sorted(common.grouped(measured.runs, "estimator"), key=_order(measured.runs))
    for ax, reference in zip(axes, measured.references, strict=True):
        horizon = reference["horizon"]
        for i, name in enumerate(names):
            mine = _runs_of(measured.runs, name, horizon)
            if mine:
                _draw_runs(ax, mine, reference, name, f"C{i}")
        ax.axhline(reference["adam"], color="black", linestyle="--", label=ADAM)
        ax.set(xscale="linear", title=f"Lives of {horizon:,} steps")
        ax.set(xlabel="seconds of training", ylabel="meta-loss")
        # Never a power of ten: the losses lie close together.
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    axes[-1].legend()
    return fig


def _draw_runs(
    ax: Any,
    runs: list[dict],
    reference: dict,
    name: str,
    color: str,
) -> None:
    times, losses = [], []
    for run in runs:
        times.append([0.0, *run["seconds"]])
        losses.append([reference["untrained"][run["seed"]], *run["meta_losses"]])
    ax.plot(np.transpose(times), np.transpose(losses), color=color, linewidth=0.7, alpha=0.4)
    medians = np.median(times, axis=0), np.median(losses, axis=0)
    ax.plot(*medians, color=color, linewidth=2, label=name)


def main() -> None:
    """Measures what the flags ask for, and reports."""
    settings = common.settings("estimators")
    ground = make_ground(settings.quick)
    measured = Measured(ground, _seeds(), settings.rounds)
    fields = ground._asdict()
    plain = {name: fields[name] for name in fields if name not in ("opt", "problem", "horizons")}
    record = common.record(
        "estimators",
        settings,
        ground=plain,
        horizons=list(ground.horizons),
        optimizer=ground.opt.spec,
        coordinates=common.num_coordinates(ground.problem),
        meta_steps=measured.steps,
        noise=measured.noise,
        references=measured.references,
        runs=measured.runs,
    )
    common.report(settings.output, as_text(measured), record, as_figure(measured))


if __name__ == "__main__":
    common.run(main)
