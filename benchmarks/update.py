"""What an update costs: a learned optimizer's step beside Adam's and beside plain Flax.

For each number of coordinates (one float32 vector of parameters), the jitted
`tx.update(gradient, state, params)` of

  adam            optax.adam
  naive lstm      the LSTM optimizer as one writes it with Flax's OptimizedLSTMCell
                  (benchmarks/naive.py)
  lstm            learned_opt.lstm("mnist"): two layers of 20, its state in float32
  lstm-bf16       the same with its state in bfloat16
  naive rnnprop   RNNprop, written likewise
  rnnprop         learned_opt.rnnprop()

is run as in a training loop: the state is donated, and each run reads the state that the last one
left. The time of computing the gradient is not in it: the larger the model's forward and backward
pass, the less of this a user feels.

Columns:
  time / adam     how many times as long as optax.adam on the same vector; median over rounds
                  (quartiles)
  naive / time    how many times as fast as the naive one of its kind; median
  time / floor    how many times as long as the machine needs at least, by rates measured in the
                  same rounds: to read and write state, gradient and update once at the rate of
                  copying a large array, and to multiply with the network's weights at the rate of
                  multiplying large matrices, whichever takes longer; median
  state B/param   bytes of optimizer state for each parameter, kept between steps
  temp B/param    bytes of temporary memory for each parameter while the update runs
  ms              milliseconds an update, on an accelerator only (raw times are in results.json
                  everywhere)

A second table is about matrices, for which other optimizers are made: for each number of equal
square ones, with a million parameters together,

  adam            optax.adam
  muon            optax.contrib.muon
  general         learned_opt.general as its weights ship, with a controller
  network         the same with a network for the direction of each coordinate
  ablation        without either: the Nesterov momentum, orthogonalised

with time / muon in the place of what is naive.

All are timed in turns within each round, and the ratios are taken round by round. The default run
takes about three minutes on two CPU cores, and 4 GB of memory. On a GPU add --sizes=16000000.
"""

from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from matplotlib import figure

import learned_opt
from benchmarks import common, floor, naive
from learned_opt.evaluation import cost, timing
from learned_opt.optimizees.base import Theta

_sizes = common.define_sizes(
    [1_000, 15_910, 100_000, 1_000_000],
    [100, 1_000],
    "Numbers of coordinates (the paper's MNIST network has 15910)",
)
_matrices = common.define_numbers_or(
    "matrices",
    [1, 16, 256],
    [1, 4],
    "Numbers of square matrices that a million parameters are (with --quick ten thousand)",
)
flags.adopt_module_key_flags(common)


class Loop:
    """Updates in a row: each call starts one, with the state that the last one left."""

    def __init__(
        self,
        tx: optax.GradientTransformation,
        gradient: Theta,
        params: Theta,
    ) -> None:
        def update(
            gradient: Theta,
            params: Theta,
            state: Any,
        ) -> tuple[Theta, Any]:
            return tx.update(gradient, state, params)

        self._args = gradient, params
        self._state = jax.jit(tx.init)(params)
        self.program = common.compiled(update, gradient, params, self._state, donate=2)

    def __call__(self) -> Theta:
        """Starts an update; returns the updates, to wait for."""
        updates, self._state = self.program(*self._args, self._state)
        return updates


def transformations() -> dict[str, optax.GradientTransformation]:
    """The optimizers by name; a naive one and its counterparts have the same weights."""
    lstm, rnnprop = learned_opt.lstm("mnist"), learned_opt.rnnprop()
    phi, rnnprop_phi = lstm.init(jax.random.key(0)), rnnprop.init(jax.random.key(0))
    return {
        "adam": optax.adam(1e-3),
        "naive lstm": naive.transform(naive.like(lstm), naive.from_learned(phi)),
        "lstm": lstm.transform(phi),
        "lstm-bf16": learned_opt.lstm("mnist", state_dtype="bfloat16").transform(phi),
        "naive rnnprop": naive.rnnprop(rnnprop, rnnprop_phi),
        "rnnprop": rnnprop.transform(rnnprop_phi),
    }


def measure(
    num_coordinates: int,
    rounds: int,
    machine: floor.Machine,
) -> list[dict]:
    """Times all updates of one vector; returns one dict for each optimizer."""
    params, gradient = 0.01 * jax.random.normal(jax.random.key(1), (2, num_coordinates))
    txs = transformations()
    loops = {name: Loop(tx, gradient, params) for name, tx in txs.items()}
    timed = {**loops, **machine.programs()}
    times = timing.interleaved(timed, rounds, f"{num_coordinates:,} coordinates")
    results = []
    for name, tx in txs.items():
        state_bytes = cost.state_bytes_per_parameter(tx, params)
        work = _work(name, num_coordinates, state_bytes)
        temporary_bytes = common.temporary_bytes(loops[name].program)
        result = {
            "coordinates": num_coordinates,
            "optimizer": name,
            "seconds": times[name],
            "time_over_adam": common.ratio(times, name, "adam"),
            "naive_over_time": common.ratio(times, _naive(name), name),
            "time_over_floor": common.spread(machine.over_floor(times, name, work)),
            "machine_rates": machine.rates(times),
            "state_bytes_per_parameter": state_bytes,
            "temporary_bytes_per_parameter": temporary_bytes / num_coordinates,
        }
        results.append(result)
    return results


def of_matrices() -> dict[str, optax.GradientTransformation]:
    """The optimizers of the second table by name. Time does not depend on the weights."""
    general = learned_opt.general(num_steps=10_000, hidden_sizes=())
    network = learned_opt.general(num_steps=10_000)
    ablation = learned_opt.general(num_steps=10_000, hidden_sizes=(), controller_sizes=())
    key = jax.random.key(0)
    return {
        "adam": optax.adam(1e-3),
        "muon": optax.contrib.muon(1e-2),
        "general": general.transform(general.init(key)),
        "network": network.transform(network.init(key)),
        "ablation": ablation.transform(ablation.init(key)),
    }


def measure_matrices(
    num_matrices: int,
    num_coordinates: int,
    rounds: int,
) -> list[dict]:
    """Times all updates of equal square matrices; returns one dict for each optimizer."""
    side = max(2, round((num_coordinates / num_matrices) ** 0.5))
    shape = (2, num_matrices, side, side)
    params, gradient = map(list, 0.01 * jax.random.normal(jax.random.key(1), shape))
    txs = of_matrices()
    loops = {name: Loop(tx, gradient, params) for name, tx in txs.items()}
    times = timing.interleaved(loops, rounds, f"{num_matrices} x {side} x {side}")
    results = []
    for name, tx in txs.items():
        temporary_bytes = common.temporary_bytes(loops[name].program)
        result = {
            "matrices": num_matrices,
            "side": side,
            "optimizer": name,
            "seconds": times[name],
            "time_over_muon": common.ratio(times, name, "muon"),
            "time_over_adam": common.ratio(times, name, "adam"),
            "state_bytes_per_parameter": cost.state_bytes_per_parameter(tx, params),
            "temporary_bytes_per_parameter": temporary_bytes / (num_matrices * side**2),
        }
        results.append(result)
    return results


def as_table_of_matrices(results: list[dict]) -> str:
    """The results of `measure_matrices` as a Markdown table."""
    header = [
        "matrices",
        "optimizer",
        "time / muon",
        "time / adam",
        "state B/param",
        "temp B/param",
    ]
    rows = []
    for result in results:
        row = [
            f"{result['matrices']} x {result['side']} x {result['side']}",
            result["optimizer"],
            result["time_over_muon"],
            result["time_over_adam"],
            common.number(result["state_bytes_per_parameter"]),
            common.number(result["temporary_bytes_per_parameter"]),
        ]
        rows.append(row)
    return common.table(header, rows)


def _naive(name: str) -> str:
    """The naive optimizer with which this one is compared."""
    return "naive rnnprop" if "rnnprop" in name else "naive lstm"


def _work(
    name: str,
    num_coordinates: int,
    state_bytes: float,
) -> floor.Work:
    """State is read and written, the gradient is read, and the update is written."""
    opt = learned_opt.rnnprop() if "rnnprop" in name else learned_opt.lstm("mnist")
    phi = () if name == "adam" else jax.eval_shape(opt.init, jax.random.key(0))
    operations = num_coordinates * floor.network_operations(phi)
    return floor.Work(operations, num_coordinates * (2 * state_bytes + 8))


def as_table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    header = [
        "coordinates",
        "optimizer",
        "time / adam",
        "naive / time",
        "time / floor",
        "state B/param",
        "temp B/param",
    ]
    rows = []
    for result in results:
        row = [
            f"{result['coordinates']:,}",
            result["optimizer"],
            result["time_over_adam"],
            _faster(result),
            common.number(result["time_over_floor"].median),
            common.number(result["state_bytes_per_parameter"]),
            common.number(result["temporary_bytes_per_parameter"]),
        ]
        rows.append(row)
    if common.show_milliseconds():
        header.append("ms")
        for row, result in zip(rows, results, strict=True):
            row.append(common.spread(np.multiply(1e3, result["seconds"])))
    return common.table(header, rows)


def _faster(result: dict) -> str | None:
    if result["optimizer"] == "adam":
        return None
    return common.times_as(result["naive_over_time"].median)


def as_figure(results: list[dict]) -> figure.Figure:
    """Time relative to Adam against the number of coordinates."""
    fig, (ax,) = common.new_axes(1)
    for name, mine in common.grouped(results, "optimizer").items():
        sizes = common.column(mine, "coordinates")
        common.draw(ax, sizes, common.column(mine, "time_over_adam"), name)
    ax.set(xlabel="coordinates", ylabel="time of an update / optax.adam")
    ax.set(title="What an update costs")
    ax.legend()
    return fig


def main() -> None:
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("update")
    machine = floor.Machine(settings.quick)
    results = []
    for size in _sizes():
        results += measure(size, settings.rounds, machine)
    matrices = []
    num_coordinates = common.by_default(1_000_000, 10_000)
    for count in _matrices():
        matrices += measure_matrices(count, num_coordinates, settings.rounds)
    record = common.record("update", settings, results=results, matrices=matrices)
    text = f"{as_table(results)}\n\n{as_table_of_matrices(matrices)}"
    common.report(settings.output, text, record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
