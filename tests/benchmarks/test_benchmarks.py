import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from benchmarks import floor, naive
from learned_opt.estimators import Autodiff
from learned_opt.meta import programs
from learned_opt.optimizees import base as optimizee_base

ROOT = pathlib.Path(__file__).parents[2]
WINDOW = 5


def start(name, *flags):
    # A process of its own: the benchmarks define absl flags, which two main modules cannot share.
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        check=False,
    )


def quick(name, output, *more):
    done = start(name, "--quick", f"--output={output}", *more)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in output.iterdir()) == ["plot.png", "results.json", "table.md"]
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    table = (output / "table.md").read_text()
    assert table in done.stdout
    record = json.loads((output / "results.json").read_text())
    assert record["environment"]["versions"]["jax"] == jax.__version__
    return record, table


def assert_positive(spread):
    assert 0 < spread["low"] <= spread["median"] <= spread["high"] < np.inf


def test_update_benchmark(tmp_path):
    record, table = quick("update", tmp_path / "out", "--rounds=2")
    for result in record["results"]:
        assert_positive(result["time_over_adam"])
        assert_positive(result["naive_over_time"])
        assert_positive(result["time_over_floor"])
        assert len(result["seconds"]) == record["rounds"]
        assert f"{result['coordinates']:,}" in table
        assert result["optimizer"] in table
    size = {
        r["optimizer"]: r["state_bytes_per_parameter"]
        for r in record["results"]
        if r["coordinates"] == 1_000
    }
    assert size["naive lstm"] == size["lstm"] == 320
    assert 328 <= size["rnnprop"] < 329  # one step count for all
    assert size["lstm-bf16"] == 160
    for result in record["matrices"]:
        assert_positive(result["time_over_muon"])
        assert_positive(result["time_over_adam"])
        assert f"{result['matrices']} x {result['side']} x {result['side']}" in table
    of_matrices = {r["optimizer"]: r["state_bytes_per_parameter"] for r in record["matrices"]}
    assert of_matrices["muon"] < 5
    assert 16 <= of_matrices["general"] < 17


@pytest.mark.thorough
def test_communicating_benchmark(tmp_path):
    record, table = quick("communicating", tmp_path / "out", "--rounds=1")
    results = {r["optimizer"]: r for r in record["results"]}
    assert list(results) == ["lstm", "lstm, XLA", "gac", "ntm-lbfgs", "ntm-bfgs"]
    for name, result in results.items():
        assert_positive(result["update_over_lstm"])
        assert_positive(result["time_over_lstm"])
        assert name in table
    size = {name: r["state_bytes_per_parameter"] for name, r in results.items()}
    num_coordinates = results["lstm"]["coordinates"]
    assert size["lstm"] == size["lstm, XLA"] == 320
    averages = 4 * 2 * 5 / num_coordinates
    assert size["gac"] == pytest.approx(320 - 4 * 2 * 5 + averages)
    assert size["ntm-lbfgs"] == pytest.approx(size["gac"] + 4 * (1 + 2 * 30))
    assert size["ntm-bfgs"] == pytest.approx(size["gac"] + 4 * (1 + num_coordinates))
    assert results["lstm"]["memory_over_lstm"] == 1


@pytest.mark.thorough
def test_meta_gradient_benchmark(tmp_path):
    record, table = quick("meta_gradient", tmp_path / "out")
    assert {r["method"] for r in record["results"]} == {"naive", "autodiff", "adjoint", "forward"}
    for result in record["results"]:
        assert_positive(result["naive_over_time"])
        assert_positive(result["time_over_forward"])
        assert_positive(result["time_over_floor"])
        assert result["naive_over_memory"] > 0
        assert result["method"] in table
    for errors in record["relative_errors"].values():
        assert set(errors) == {"naive", "adjoint"}
        for error in errors.values():
            assert error < 1e-2  # an accelerator multiplies in a smaller format
    assert "NOT THE SAME" not in table


@pytest.mark.thorough
def test_start_benchmark(tmp_path):
    record, table = quick("start", tmp_path / "out", "--rounds=1")
    assert [r["what"] for r in record["results"]] == [
        "import jax, optax",
        "import learned_opt",
        "naive, 5 steps",
        "meta_gradient, 5 steps",
    ]
    for result in record["results"]:
        assert_positive(result["time_over_reference"])
        assert result["what"] in table


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    machine = floor.Machine(quick=True)
    work = dict(zip(machine.programs(), (2 * 256**3, 2 * 4 * 2**20), strict=True))
    matmul, copy = machine.programs()
    times = {matmul: [1.0, 2.0], copy: [4.0, 4.0], "program": [8.0, 8.0]}
    multiplies = floor.Work(operations=work[matmul], bytes=0)
    np.testing.assert_allclose(machine.over_floor(times, "program", multiplies), [8.0, 4.0])
    copies = floor.Work(operations=work[matmul], bytes=work[copy])
    np.testing.assert_allclose(machine.over_floor(times, "program", copies), [2.0, 2.0])
    assert machine.rates(times) == {"operations": work[matmul] / 1.5, "bytes": work[copy] / 4}
    for program in machine.programs().values():
        assert jnp.all(jnp.isfinite(program()))


@pytest.mark.thorough
def test_programs_above_the_memory_limit_are_not_run(tmp_path):
    done = start("meta_gradient", "--quick", f"--output={tmp_path}", "--max_gib=0")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert all(r["seconds"] is None and r["temporary_bytes"] > 0 for r in results)


@pytest.mark.thorough
def test_meta_training_benchmark(tmp_path):
    """Without the race to Adam, which is in test_racing.py and in the second tier."""
    record, table = quick("meta_training", tmp_path / "out", "--rounds=1", "--max_horizons=0")
    check_speed(record)
    assert record["time_to_adam"] == record["runs"] == []
    assert "coordinates=" in table


def check_speed(record):
    methods = ["adjoint", f"coordinates={record['coordinates'] // 4}"]
    assert [r["method"] for r in record["speed"]] == ["naive", "autodiff", *methods]
    for result in record["speed"]:
        assert_positive(result["naive_over_time"])
        assert len(result["seconds"]) == record["rounds"]
        steps = record["course"]["num_steps"] * record["course"]["num_problems"]
        seconds = steps / result["steps_per_second"]["median"]
        assert min(result["seconds"]) <= seconds * (1 + 1e-9)
        assert seconds <= max(result["seconds"]) * (1 + 1e-9)
    return methods


@pytest.mark.thorough
def test_meta_training_benchmark_with_its_race(tmp_path):
    record, table = quick("meta_training", tmp_path / "out", "--seeds=1", "--max_horizons=2")
    methods = check_speed(record)
    assert [s["method"] for s in record["time_to_adam"]] == methods
    for summary in record["time_to_adam"]:
        row = next(
            line for line in reversed(table.splitlines()) if f"| {summary['method']} " in line
        )
        assert f"{summary['reached']} of {summary['seeds']}" in row
        assert ("not reached" in row) == (summary["reached"] == 0)
    assert len(record["runs"]) == len(methods) * record["time_to_adam"][0]["seeds"]


@pytest.mark.thorough
def test_estimators_benchmark(tmp_path):
    """Lives of one length, and a mixture in the second tier: nearly all of it is compilation."""
    record, table = quick("estimators", tmp_path / "out", "--horizons=10", "--rounds=1")
    names = ["adjoint", "adjoint, window 10", "autodiff", "imitate", "pes", "nres"]
    check_estimators(record, table, names, [10])


@pytest.mark.thorough
def test_estimators_benchmark_at_several_horizons(tmp_path):
    record, table = quick("estimators", tmp_path / "out", "--seeds=2")
    names = ["adjoint", "adjoint, window 10", "autodiff", "imitate", "mixture", "pes", "nres"]
    check_estimators(record, table, names, [10, 20])


def check_estimators(record, table, names, horizons):
    assert [r["estimator"] for r in record["meta_steps"]] == names
    for result in record["meta_steps"]:
        assert_positive(result["time_over_adjoint"])
        assert result["estimator"] in table
    seeds = {run["seed"] for run in record["runs"]}
    runs = [(run["estimator"], run["horizon"], run["seed"]) for run in record["runs"]]
    serving = {(n, h) for n in names for h in horizons if n != "mixture" or h > horizons[0]}
    assert sorted(runs) == sorted((n, h, s) for n, h in serving for s in seeds)
    for run in record["runs"]:
        assert len(run["meta_losses"]) == 2
        assert np.all(np.isfinite(run["meta_losses"]))
        assert run["seconds"][-1] >= record["ground"]["seconds"]
        assert run["skipped"] == 0
    assert {(r["estimator"], r["horizon"]) for r in record["noise"]} == serving
    whole_window = record["noise"][1]["bias_untrained"]  # it lacks second derivatives alone
    assert max(whole_window["bias"], whole_window["error"]) < 0.5
    assert [r["horizon"] for r in record["references"]] == horizons


def test_bad_horizons_are_usage_errors():
    done = start("estimators", "--quick", "--horizons=15")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "--horizons must be multiples of 10" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "own"), [("update", "--sizes"), ("meta_training", "--coordinates")]
)
def test_help_lists_the_flags(name, own):
    text = start(name, "--help").stdout
    assert "\n  naive" in text
    for flag in ("--output", "--rounds", "quick", own):
        assert flag in text


def test_bad_settings_of_meta_training_are_usage_errors():
    done = start("meta_training", "--quick", "--max_horizons=5")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "--max_horizons" in done.stdout + done.stderr


@pytest.mark.parametrize("flag", ["--sizes=10,x", "--rounds=0", "stray"])
def test_bad_flags_are_usage_errors(flag):
    done = start("update", flag)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert flag.split("=")[0].removeprefix("--") in done.stdout + done.stderr


@pytest.fixture(name="problem", scope="module")
def _problem():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    return learned_opt.optimizees.mlp(
        learned_opt.data.Dataset(images, rng.integers(0, 10, 64), 10), width=4
    )


@pytest.mark.parametrize("preset", ["quadratic", "mnist"])
def test_naive_is_an_independent_oracle(preset, problem):
    opt = learned_opt.lstm(preset)
    phi, key = opt.init(jax.random.key(0)), jax.random.key(1)
    with jax.default_matmul_precision("highest"):
        loss, gradient = learned_opt.meta_gradient(opt, phi, problem, key, WINDOW)
        by_flax = jax.jit(lambda w, p, k: naive.meta_gradient(naive.like(opt), w, p, k, WINDOW))
        naive_loss, naive_gradient = by_flax(naive.from_learned(phi), problem, key)
    np.testing.assert_allclose(naive_loss, loss, rtol=1e-5)
    assert_close(naive.gradient_to_learned(phi, naive_gradient), gradient)


def test_naive_carries_its_state_to_the_next_window_and_begins_anew(problem):
    opt = learned_opt.lstm("mnist", hidden_sizes=(5,))
    family = optimizee_base.as_family(problem)
    phi, weights = opt.init(jax.random.key(0)), jnp.arange(1.0, WINDOW + 1)
    keys = jax.random.split(jax.random.key(1), 2)

    @functools.partial(programs.jit, static_argnums=(0,))
    def begin(estimator, phi, family):
        return estimator.begin(opt, phi, family, keys, 2 * WINDOW)

    @functools.partial(programs.jit, static_argnums=(0,))
    def run(estimator, phi, family, lives, key):
        return estimator.run(opt, phi, family, lives, key, weights)

    def windows(estimator):
        estimates = []
        lives = begin(estimator, phi, family)
        for key in jax.random.split(jax.random.key(2), 3):
            losses, gradient, lives = run(estimator, phi, family, lives, key)
            estimates.append((losses, gradient))
        return estimates

    with jax.default_matmul_precision("highest"):
        wanted = windows(Autodiff(WINDOW))
        by_flax = windows(naive.Estimator(WINDOW))
    for (losses, gradient), (flax_losses, flax_gradient) in zip(wanted, by_flax, strict=True):
        np.testing.assert_allclose(flax_losses, losses, rtol=1e-5)
        assert_close(flax_gradient, gradient)
    assert not np.allclose(wanted[2][0], wanted[0][0])  # the third window has fresh problems


def assert_close(theirs, ours):
    for x, y in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.linalg.norm(y)))


def test_naive_weights_have_flax_layout():
    opt = learned_opt.lstm("mnist")
    fresh = naive.init(naive.like(opt), jax.random.key(0))
    converted = naive.from_learned(opt.init(jax.random.key(0)))
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(jnp.shape, fresh)


@pytest.mark.parametrize(
    "opt", [learned_opt.lstm("mnist"), learned_opt.rnnprop()], ids=lambda opt: opt.spec["name"]
)
def test_naive_updates_equal_those_of_the_library(opt):
    phi = opt.init(jax.random.key(0))
    params = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(())}
    gradient = {"a": jnp.linspace(-1e-3, 1, 12).reshape(3, 4), "b": jnp.asarray(1e-6)}
    of_lstm = opt.spec["name"] == "lstm"
    theirs = (
        naive.transform(naive.like(opt), naive.from_learned(phi))
        if of_lstm
        else naive.rnnprop(opt, phi)
    )
    ours = opt.transform(phi)
    states = ours.init(params), theirs.init(params)
    for _ in range(3):
        u, first = ours.update(gradient, states[0], params)
        v, second = theirs.update(gradient, states[1], params)
        states = first, second
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7), u, v)


@pytest.mark.thorough
def test_scale_benchmark(tmp_path):
    """Devices meet once where the problems are in shards, and in every step where XLA chooses."""
    record, table = quick("scale", tmp_path / "out")
    shards, gspmd = (
        [r for r in record["results"] if r["program"] == name] for name in ("shards", "GSPMD")
    )
    assert [r["devices"] for r in shards] == [1, 2]
    two = shards[1]
    assert (two["collectives"], two["in_steps"]) == (1, 0)
    assert shards[0]["flops"] / (2 * two["flops"]) >= 0.99
    assert gspmd[0]["in_steps"] > 0
    assert "Modelled, not measured: 2e+12 FLOPs a second" in table
    done = start("scale", "--quick", "--sizes=2,3", f"--output={tmp_path}")
    assert "--sizes must divide the largest of them, 3, got 2" in done.stderr
