"""What an update costs: a learned optimizer's step beside Adam's and beside a plain Flax implementation's.

For each number of coordinates (one float32 vector of parameters), the jitted `tx.update(gradient, state, params)` of

  adam            optax.adam
  naive lstm      the LSTM optimizer as one writes it with Flax's OptimizedLSTMCell (benchmarks/naive.py)
  lstm            learned_opt.lstm("mnist"): two layers of 20, its state in float32
  lstm-bf16       the same with its state in bfloat16
  naive rnnprop   RNNprop, written likewise
  rnnprop         learned_opt.rnnprop()

is run as in a training loop: the state is donated, and each run reads the state that the last one left. The time of
computing the gradient is not in it: the larger the model's forward and backward pass, the less of this a user feels.

Columns:
  time / adam     how many times as long as optax.adam on the same vector; median over rounds (quartiles)
  naive / time    how many times as fast as the naive one of its kind; median
  time / floor    how many times as long as the machine needs at least, by rates measured in the same rounds: to
                  read and write state, gradient and update once at the rate of copying a large array, and to multiply
                  with the network's weights at the rate of multiplying large matrices, whichever takes longer; median
  state B/param   bytes of optimizer state for each parameter, kept between steps
  temp B/param    bytes of temporary memory for each parameter while the update runs
  ms              milliseconds an update, on an accelerator only (raw times are in results.json everywhere)

All are timed in turns within each round, and the ratios are taken round by round. The default run takes about two
minutes on two CPU cores, and 4 GB of memory. On a GPU add --sizes=16000000.
"""

import jax
import jax.numpy as jnp
import optax
from absl import flags

import learned_opt
from benchmarks import common, floor, naive
from learned_opt.evaluation import cost, environment, timing

_sizes = common.define_sizes(
    [1_000, 15_910, 100_000, 1_000_000],
    [100, 1_000],
    "Numbers of coordinates (the paper's MNIST network has 15910)",
)
flags.adopt_module_key_flags(common)


class Loop:
    """Updates in a row: each call starts one, with the state that the last one left."""

    def __init__(self, tx, gradient, params):
        self._args = gradient, params
        self._state = jax.jit(tx.init)(params)
        self.program = common.compiled(
            lambda gradient, params, state: tx.update(gradient, state, params),
            gradient,
            params,
            self._state,
            donate=2,
        )

    def __call__(self):
        """Starts an update; returns the updates, to wait for."""
        updates, self._state = self.program(*self._args, self._state)
        return updates


def transformations():
    """Dict from name to optax transformation; a naive one and its counterparts have the same weights."""
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


def measure(num_coordinates, rounds, machine):
    """Times all updates of one vector; returns one dict for each optimizer."""
    params, gradient = 0.01 * jax.random.normal(jax.random.key(1), (2, num_coordinates))
    txs = transformations()
    loops = {name: Loop(tx, gradient, params) for name, tx in txs.items()}
    times = timing.interleaved(
        {**loops, **machine.programs()}, rounds, f"{num_coordinates:,} coordinates"
    )
    return [
        _result(name, tx, params, times, loops[name].program, machine) for name, tx in txs.items()
    ]


def _result(name, tx, params, times, program, machine):
    state_bytes = cost.state_bytes_per_parameter(tx, params)
    return {
        "coordinates": params.size,
        "optimizer": name,
        "seconds": times[name],
        "time_over_adam": common.ratio(times, name, "adam"),
        "naive_over_time": _naive_over(times, name),
        "time_over_floor": common.spread(
            machine.over_floor(times, name, _work(name, params.size, state_bytes))
        ),
        "machine_rates": machine.rates(times),
        "state_bytes_per_parameter": state_bytes,
        "temporary_bytes_per_parameter": common.temporary_bytes(program) / params.size,
    }


def _naive_over(times, name):
    return common.ratio(times, "naive rnnprop" if "rnnprop" in name else "naive lstm", name)


def _work(name, num_coordinates, state_bytes):
    """State is read and written, the gradient read, the update written."""
    opt = learned_opt.rnnprop() if "rnnprop" in name else learned_opt.lstm("mnist")
    phi = () if name == "adam" else jax.eval_shape(opt.init, jax.random.key(0))
    return floor.Work(
        num_coordinates * floor.network_operations(phi), num_coordinates * (2 * state_bytes + 8)
    )


def as_table(results):
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
    rows = [
        [
            f"{r['coordinates']:,}",
            r["optimizer"],
            r["time_over_adam"],
            _faster(r),
            common.number(r["time_over_floor"].median),
            common.number(r["state_bytes_per_parameter"]),
            common.number(r["temporary_bytes_per_parameter"]),
        ]
        for r in results
    ]
    if common.show_milliseconds():
        header.append("ms")
        rows = [
            [*row, common.spread(1e3 * jnp.asarray(r["seconds"]))]
            for row, r in zip(rows, results, strict=True)
        ]
    return common.table(header, rows)


def _faster(result):
    return (
        None if result["optimizer"] == "adam" else common.times_as(result["naive_over_time"].median)
    )


def as_figure(results):
    """Time relative to Adam against the number of coordinates."""
    fig, (ax,) = common.new_axes(1)
    for name in dict.fromkeys(r["optimizer"] for r in results):
        mine = [r for r in results if r["optimizer"] == name]
        common.draw(ax, [r["coordinates"] for r in mine], [r["time_over_adam"] for r in mine], name)
    ax.set(
        xlabel="coordinates", ylabel="time of an update / optax.adam", title="What an update costs"
    )
    ax.legend()
    return fig


def main():
    """Measures every size that the flags ask for, and reports."""
    settings = common.settings("update")
    machine = floor.Machine(settings.quick)
    results = [r for n in _sizes() for r in measure(n, settings.rounds, machine)]
    record = {
        "benchmark": "update",
        "rounds": settings.rounds,
        "quick": settings.quick,
        "environment": environment.record(),
        "results": results,
    }
    common.report(settings.output, as_table(results), record, as_figure(results))


if __name__ == "__main__":
    common.run(main)
