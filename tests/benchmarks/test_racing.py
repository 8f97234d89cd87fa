import jax
import numpy as np
import pytest

import learned_opt
from benchmarks import meta_training, racing
from learned_opt.estimators import Adjoint

METHODS = {racing.WHOLE: Adjoint(2), "coordinates=2": Adjoint(2, coordinates=2)}
COURSE = racing.Course(
    learned_opt.lstm(hidden_sizes=(3,)),
    learned_opt.optimizees.quadratic(2),
    num_steps=4,
    window=2,
    num_problems=3,
    learning_rate=0.01,
    max_horizons=6,
    horizons_per_validation=2,
    num_validation=4,
    tune_runs=3,
)


@pytest.fixture(name="raced", scope="module")
def _raced():
    return racing.race(COURSE, METHODS, 2)


def test_every_method_runs_from_every_seed(raced):
    _, runs = raced
    ran = [(run["method"], run["seed"]) for run in runs]
    assert sorted(ran) == sorted((method, seed) for method in METHODS for seed in range(2))
    for run in runs:
        assert run["horizons"] == [2, 4, 6]
        assert 0 < run["seconds"][0] < run["seconds"][1] < run["seconds"][2]
    losses = {(r["method"], r["seed"]): r["validation_losses"] for r in runs}
    assert losses[racing.WHOLE, 0] != losses["coordinates=2", 0]
    assert losses[racing.WHOLE, 0] != losses[racing.WHOLE, 1]


def test_adam_runs_on_the_validation_problems(raced):
    """The weights that meta_train keeps and Adam, both on problems drawn from the same key."""
    adam, runs = raced
    run = next(r for r in runs if (r["method"], r["seed"]) == (racing.WHOLE, 1))
    key = jax.random.split(jax.random.key(1), 4)[2]
    result = learned_opt.meta_train(
        COURSE.opt,
        COURSE.problem,
        jax.random.key(1),
        num_steps=4,
        num_problems=3,
        num_epochs=3,
        episodes_per_epoch=2,
        estimator=Adjoint(2),
        optimizer=learned_opt.ClippedAdam(schedule="constant"),
        learning_rate=0.01,
        validation=learned_opt.Validation(num_problems=4),
        progress_bar=False,
    )
    learned = COURSE.opt, result.phi
    expected = (adam.tx, run["adam_loss"]), (learned, min(run["validation_losses"]))
    for tx, loss in expected:
        curves = learned_opt.evaluate(tx, COURSE.problem, key, 4, 4)
        np.testing.assert_allclose(curves[:, -1].mean(), loss, rtol=1e-5)


def test_the_clock_sees_no_compilation(raced):
    """A horizon takes milliseconds, its compilation seconds."""
    for run in raced[1]:
        assert run["seconds"][0] < 20 * (run["seconds"][2] - run["seconds"][1]) + 0.5


@pytest.mark.parametrize(
    ("losses", "at"), [([3, 2, 0.9, 2], 2), ([0.5], 0), ([1, np.inf, np.nan], None)]
)
def test_adam_is_overtaken_at_the_first_loss_below_his(losses, at):
    assert racing.overtaken(losses, 1) == at


def run(method, seed, horizons, seconds, losses):
    return {
        "method": method,
        "seed": seed,
        "horizons_to_adam": horizons,
        "seconds_to_adam": seconds,
        "validation_losses": losses,
        "adam_loss": 2.0,
    }


def test_ratios_are_taken_seed_by_seed_where_both_got_there():
    whole, half, never = racing.summarize(
        [
            run(racing.WHOLE, 0, 10, 8.0, [4, 1]),
            run("half", 0, 20, 4.0, [2, 1]),
            run("never", 0, None, None, [4, 3]),
            run(racing.WHOLE, 1, None, None, [4, 3]),
            run("half", 1, 40, 9.0, [1, 2]),
            run("never", 1, None, None, [5, 8]),
        ]
    )
    assert (whole["reached"], half["reached"], never["reached"]) == (1, 2, 0)
    assert whole["time_over_whole"].median == 1
    assert half["time_over_whole"] == (0.5, 0.5, 0.5)
    assert half["horizons_to_adam"].median == 30
    assert half["loss_over_adam"] == (0.5, 0.5, 0.5)
    assert never["time_over_whole"] is never["seconds_to_adam"] is never["horizons_to_adam"] is None
    assert never["loss_over_adam"].median == 2


def test_the_table_and_the_picture_show_every_method(raced):
    _, runs = raced
    summaries = racing.summarize(runs)
    table = meta_training.race_table(summaries)
    for summary in summaries:
        row = next(line for line in table.splitlines() if f"| {summary['method']} " in line)
        assert f"{summary['reached']} of 2" in row
        assert ("not reached" in row) == (summary["reached"] == 0)
    speed = [{"method": method, "naive_over_time": (1.0, 2.0, 3.0)} for method in METHODS]
    _, race_axes = meta_training.as_figure(speed, runs).axes
    _, labels = race_axes.get_legend_handles_labels()
    assert labels == [*METHODS, "tuned Adam"]
