"""The suite: its tasks, the shares of steps, and a whole run so small that it is quick."""

import csv
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments.suite import __main__ as suite
from experiments.suite import (
    at_once,
    families,
    in_turn,
    kept,
    optimizers,
    results,
    running,
    shares,
    sources,
    tasks,
    writing,
)
from learned_opt import optimizees
from learned_opt.meta import unrolling
from learned_opt.optimizees import base
from tests.experiments.programs import in_process

KEY = jax.random.key(0)
SOURCES = sources.Sources("small")
SETTINGS = kept.Settings("small", 10, 2, 1, "embedded", 0)
TINY = [
    "--tasks=quadratic-vector,quadratic-matrix",
    "--optimizers=adam-tuned,lion",
    "--num_steps=10",
    "--seeds=2",
    "--tune_runs=1",
]


def begun(name):
    """The family of a task, and a problem of it."""
    family = base.as_family(tasks.TASKS[name].built(SOURCES, "small").family)
    return family, base.begin(family, KEY)


def thorough_but(first):
    """All tasks, those that are not named in the second tier."""
    marks = {name: () if name in first else pytest.mark.thorough for name in tasks.TASKS}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


KINDS = ["autoencoder", "conv-batch", "resnet-group", "gru", "transformer", "vit"]


@pytest.mark.parametrize("name", thorough_but(KINDS))
def test_every_task_is_a_family(name):
    """Shapes alone, so that nothing is compiled."""
    built = tasks.TASKS[name].built(SOURCES, "small")
    family = base.as_family(built.family)
    problem = jax.eval_shape(lambda key: base.begin(family, key), KEY)
    loss, gradient, _ = jax.eval_shape(
        lambda problem: base.value_and_grad_at(
            family, problem, problem.theta_0, 0, problem.statistics
        ),
        problem,
    )
    assert loss.shape == ()
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, problem.theta_0)


@pytest.mark.parametrize("name", thorough_but(["perceptron-mnist-layer", "quadratic-matrix"]))
def test_losses_and_gradients_are_finite(name):
    family, problem = begun(name)
    loss, gradient, _ = jax.jit(base.value_and_grad_at)(
        family, problem, problem.theta_0, 0, problem.statistics
    )
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        # A bias before a normalisation has no gradient, and nor has one of an attention's keys.
        assert np.any(leaf != 0) or leaf.ndim == 1


@pytest.mark.thorough
@pytest.mark.parametrize("name", tasks.TASKS)
def test_full_edition(name):
    built = tasks.TASKS[name].built(SOURCES, "full")
    family = base.as_family(built.family)
    jax.eval_shape(lambda key: base.begin(family, key), KEY)


def fake_built():
    """A least-squares family with a measure of each kind."""

    def of_run(run, problem):
        del problem
        return jnp.sum(run.theta)

    measure = jax.tree_util.Partial(jnp.sum)
    whole = jax.tree_util.Partial(_OfRun(), of_run)
    return families.Built(optimizees.quadratic(4), {"sum": measure, "sum of run": whole})


class _OfRun:
    of_run = True

    def __call__(self, function, run, problem):
        return function(run, problem)


@pytest.mark.parametrize("factor", [64.0, 1 / 64])
def test_rescaled_is_exactly_the_same_function(factor):
    """Powers of two round nothing: values are the same bits, gradients divided by the factor."""
    plain = fake_built()
    scaled = families.rescaled(plain, factor)
    ours, theirs = (base.as_family(built.family) for built in (scaled, plain))
    our_problem, their_problem = base.begin(ours, KEY), base.begin(theirs, KEY)
    np.testing.assert_array_equal(our_problem.theta_0, factor * their_problem.theta_0)
    got = base.value_and_grad_at(ours, our_problem, our_problem.theta_0, 0, ())
    want = base.value_and_grad_at(theirs, their_problem, their_problem.theta_0, 0, ())
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1] / factor)
    our_run, their_run = (
        unrolling.Run(jnp.zeros(1), problem.theta_0) for problem in (our_problem, their_problem)
    )
    assert scaled.measures["sum"](our_run.theta) == plain.measures["sum"](their_run.theta)
    of_run = [
        built.measures["sum of run"](run, None)
        for built, run in ((scaled, our_run), (plain, their_run))
    ]
    assert of_run[0] == of_run[1]


def test_the_rescaled_tasks_are_rescaled():
    _, plain = begun("perceptron-cifar10-relu")
    for name, factor in (("rescaled-100", 100), ("rescaled-0.01", 0.01)):
        assert tasks.TASKS[name].factor == factor
        _, problem = begun(name)
        for ours, theirs in zip(
            jax.tree.leaves(problem.theta_0), jax.tree.leaves(plain.theta_0), strict=True
        ):
            np.testing.assert_allclose(ours, factor * theirs, rtol=1e-6)


def test_a_matrix_quadratic_is_that_of_its_columns():
    """Against NumPy, and its condition from the eigenvalues."""
    family, problem = begun("quadratic-matrix")
    hessian, minimum = map(np.asarray, problem.instance)
    distance = np.asarray(problem.theta_0) - minimum
    want = np.mean([d @ hessian @ d / 2 for d in distance.T])
    got, _ = base.loss_at(family, problem, problem.theta_0, 0, ())
    np.testing.assert_allclose(got, want, rtol=1e-5)
    eigenvalues = np.linalg.eigvalsh(hessian.astype(np.float64))
    np.testing.assert_allclose(eigenvalues[[0, -1]], [1e-4, 1], rtol=1e-2)


def test_text_is_the_standard_library_and_always_the_same():
    text = SOURCES.text()
    again = sources.Sources("small").text()
    for part, other in zip(text, again, strict=True):
        np.testing.assert_array_equal(part, other)
        assert 0 <= part.min() <= part.max() < sources.VOCABULARY
    assert len(text.train) > 9 * len(text.held_out) - 10
    shown = "".join(sources.CHARACTERS[i] for i in np.asarray(text.train[:200]) if i < 96)
    assert sources.standard_library().startswith(shown[:50])


def test_symbols():
    assert sources.VOCABULARY == 97
    assert sources.symbols(" ~\né").tolist() == [0, 94, 95, 96]


def test_scattered_digits_are_always_the_same_and_lie_within():
    images = SOURCES.images("cifar10").train.images
    assert images.shape == (14_370, 16, 16, 3)
    again = sources.Sources("small").images("cifar10").train.images
    np.testing.assert_array_equal(images, again)


# Shares of steps.


def test_a_share_is_interpolated_between_the_lengths_around_it():
    finals = np.array([[4.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    got = shares.needed(finals, np.array([2.0**0.5, 3.0]), 1e-6, (0.25, 0.5, 1.0))
    # sqrt(2) lies half way from 2 to 1, and sqrt(1/2) half way from 1/2 to 1, in logarithms.
    np.testing.assert_allclose(got, [0.5**0.5, 0.25])


@pytest.mark.parametrize(
    ("finals", "target", "want"),
    [
        ([3.0, 2.0, 1.5], 1.0, np.inf),  # never
        ([np.inf, 0.5, 0.4], 1.0, 0.5),  # nothing to interpolate from
        ([np.inf, np.inf, np.inf], 1.0, np.inf),
        ([3.0, 2.0, 1.0], np.inf, 0.25),  # a rival that diverged
        ([3.0, 0.9, 5.0], 0.9, 0.5),  # the shortest length counts, though a longer one fails
        ([1e-9, 1e-9, 1e-9], 0.0, 0.25),  # both as good as zero
        ([1.0, 1e-9, 1e-9], 0.0, 0.5),
    ],
)
def test_shares_at_the_edges(finals, target, want):
    got = shares.needed(np.array(finals)[:, None], np.array([target]), 1e-6, (0.25, 0.5, 1.0))
    np.testing.assert_allclose(got, [want])
    assert shares.capped(got) <= shares.CAP


def test_final_losses():
    losses = np.stack([np.arange(101.0), np.full(101, 2.0)])
    np.testing.assert_allclose(shares.final_losses(losses, 100), [98, 2])  # the last five
    np.testing.assert_allclose(shares.final_losses(losses, 50), [49.5, 2])  # the last two
    losses[1, 60] = np.inf
    assert list(shares.final_losses(losses, 100)) == [98, np.inf]
    assert list(shares.final_losses(losses, 50)) == [49.5, 2]


# Statistics over tasks and the goals, from files that are made up.


def made_up(level, lengths=shares.SHARES, seeds=5, horizon=100):
    """Runs that are `level / share` low at each length."""
    curves = {
        share: np.full((seeds, shares.horizon(horizon, share) + 1), level / share)
        for share in lengths
    }
    record = {"horizon": horizon, "tuned": None, "constant": False}
    return kept.Done(curves, {}, record)


@pytest.fixture
def found():
    """Ours reaches tuned Adam with half of its steps on one task, and never on another."""
    per_task = {
        "gru": {"adam-tuned": made_up(2.0), "general": made_up(1.0)},
        "vit": {"adam-tuned": made_up(2.0), "general": made_up(4.0)},
    }
    for there in per_task.values():
        there["general-ablated"] = made_up(8.0)
    return per_task


def test_means_over_tasks_are_geometric_and_never_is_counted(found):
    row = results.over_all(found, found)["general"]
    assert row["diverged"] == (0, 50)
    assert row["ratio"]["mean"] == pytest.approx(1.0)  # of 1/2 and 2
    assert (row["ratio"]["worst"], row["ratio"]["worst_task"]) == (pytest.approx(2), "vit")
    needed = row["needed"]["adam-tuned"]
    assert needed["mean"] == pytest.approx((0.5 * shares.CAP) ** 0.5)
    assert (needed["never"], needed["runs"], needed["worst_task"]) == (5, 10, "vit")


def test_goals(found):
    verdicts = {(row["goal"], row["what"]): row["holds"] for row in results.goals(found)}
    assert verdicts["1", "no divergence on any task"] is True
    assert verdicts["2", "share of the steps of adam-tuned, geometric mean"] is False
    assert verdicts["2", "share of the steps of adam-tuned, worst task"] is False
    assert verdicts["2", "share of the steps of muon-tuned, geometric mean"] is None
    assert verdicts["3", "final loss over that of general-ablated, geometric mean"] is True
    assert verdicts["3", "final loss over that of general-ablated-0.8, geometric mean"] is None
    del found["vit"]
    verdicts = {row["what"]: row["holds"] for row in results.goals(found)}
    assert verdicts["share of the steps of adam-tuned, geometric mean"] is True
    found["gru"]["general"].curves[1.0][2, 50:] = np.inf
    first = results.goals(found)[0]
    assert (first["holds"], first["value"], first["note"]) == (False, 1, "of 25 runs")
    assert "**does not hold**" in writing.document(results.summary("nowhere", found), SETTINGS)


def test_a_constant_optimizer_s_shorter_runs_are_beginnings_of_the_longer_one():
    curve = np.linspace(100, 0, 101)[None]
    done = kept.Done({1.0: curve}, {}, {"horizon": 100, "constant": True})
    np.testing.assert_allclose(results.final(done, 0.5), [50.5])
    done.record["constant"] = False
    assert results.final(done, 0.5) is None


# The program.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_turn, "MOST_EXTENSIONS", 0)  # each is another program to compile
        assert in_process(suite, *TINY, f"--workdir={workdir}") == 0
    return workdir


def test_the_program_leaves_its_files(done):
    for file in ("config.json", "summary.json", "table.md", "ratios.png", "shares.png"):
        assert (done / file).stat().st_size > 0
    assert (done / "quadratic-vector" / "curves.png").stat().st_size > 0
    lion = kept.read(done / "quadratic-matrix" / "lion.npz")
    assert {share: len(losses[0]) for share, losses in lion.curves.items()} == {
        0.25: 3,
        0.35: 5,
        0.5: 6,
        0.7: 8,
        1.0: 11,
    }
    tuned = kept.read(done / "quadratic-matrix" / "adam-tuned.npz")
    assert list(tuned.curves) == [1.0]
    assert tuned.record["tuned"]["learning_rate"] >= 2.0**-13
    rows = json.loads((done / "summary.json").read_text())["tasks"]["quadratic-matrix"]
    with open(done / "values.csv") as f:
        values = [
            float(row["value"])
            for row in csv.DictReader(f)
            if (row["task"], row["optimizer"], row["name"])
            == ("quadratic-matrix", "lion", "final loss at 1")
        ]
    assert rows["lion"]["final"]["mean"] == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.thorough
def test_what_is_there_is_not_run_again_and_what_is_missing_is(done, monkeypatch):
    there = done / "quadratic-vector" / "adam-tuned.npz"
    lost = done / "quadratic-vector" / "lion.npz"
    before, was = there.stat().st_mtime_ns, kept.read(lost)
    lost.write_bytes(lost.read_bytes()[:100])  # damaged
    assert in_process(suite, *TINY, f"--workdir={done}") == 0
    assert there.stat().st_mtime_ns == before
    np.testing.assert_array_equal(kept.read(lost).curves[1.0], was.curves[1.0])
    monkeypatch.setattr(in_turn.InTurn, "run", None)
    assert in_process(suite, *TINY, f"--workdir={done}") == 0


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="maps are counted as on Linux")
def test_programs_of_a_pair_are_gone_when_the_next_one_begins(tmp_path, monkeypatch):
    """Each keeps maps of memory, of which a process has a limited number."""
    write, counts = kept.write, []

    def counted(path, done):
        write(path, done)
        with open("/proc/self/maps") as f:
            counts.append(len(f.readlines()))

    monkeypatch.setattr(kept, "write", counted)
    jax.clear_caches()
    chosen = {name: optimizers.OPTIMIZERS[name] for name in ("adamw", "lion", "muon")}
    task = {"quadratic-vector": tasks.TASKS["quadratic-vector"]}
    running.run(task, chosen, SETTINGS, SOURCES, str(tmp_path))
    assert counts[-1] < counts[0] + 200, counts  # without it each adds some 300


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--num_steps=11"], "belongs to a run with num_steps=10, not 11"),
        (["--edition=ful"], "unknown edition 'ful'. Did you mean 'full'?"),
        (["--tasks=gruu"], "unknown task 'gruu'. Did you mean 'gru'?"),
        (["--optimizers=mun"], "unknown optimizer 'mun'"),
        (["--seeds=0"], "seeds must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(done, changed, message, capsys):
    assert in_process(suite, *TINY, *changed, f"--workdir={done}") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("grid", [(1e-4, 2e-4), (4.0, 8.0)])
def test_a_grid_is_extended_until_the_best_rate_lies_within(grid):
    """Gradient descent on (x - 1)^2 / 2, whose best rate is 1: from below, and from above."""
    family = learned_opt.Optimizee(
        lambda key: (), lambda key, instance: jnp.zeros(1), lambda x, i, key: jnp.sum((x - 1) ** 2)
    )

    def constant(learning_rate, num_steps):
        del num_steps
        return lambda count: learning_rate / 2

    sgd = {"constant": optimizers.WithRate(optax.sgd, constant)}
    optimizer = optimizers.Optimizer("SGD", "tuned", decays=sgd, rates=grid)
    one = in_turn.InTurn(
        tasks.TASKS["quadratic-vector"],
        families.Built(family, {}),
        optimizer,
        SETTINGS._replace(num_steps=4),
        lambda work: None,
    )
    tuned = one._tuned()["decays"]["constant"]
    if grid[0] > 1:
        assert (tuned["learning_rate"], tuned["at_the_end_of_the_grid"]) == (1.0, False)
    else:  # three extensions of three octaves are not enough, and it says so
        assert tuned["learning_rate"] == pytest.approx(2e-4 * 2**9)
        assert tuned["at_the_end_of_the_grid"]
    assert tuned["rates"] == sorted(tuned["rates"])
    assert len(tuned["rates"]) == len(tuned["grid"])


class _SumOfRun:
    of_run = True

    def __call__(self, run, problem):
        del problem
        return jnp.sum(run.theta)


MEASURES = {"sum": jax.tree_util.Partial(jnp.sum), "sum of run": jax.tree_util.Partial(_SumOfRun())}


def both_ways(optimizer, settings):
    """What comes out in turn and at once, on a small family, and what of the work was told."""
    done = []
    for kind in (in_turn.InTurn, at_once.AtOnce):
        told = []
        task = tasks.TASKS["quadratic-vector"]
        built = families.Built(optimizees.quadratic(4), MEASURES)
        one = kind(task, built, optimizer, settings, told.append)
        done.append((one.run(), sum(told)))
    return done


def test_muon_of_kernels_orthogonalises_convolutions():
    optimizer = optimizers.OPTIMIZERS[optimizers.MUON_OF_KERNELS]
    tx = optimizer.decays["linear"](0.02, 10)
    theta = {"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.zeros(8)}
    gradient = {
        "kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8)),
        "bias": jnp.arange(1.0, 9),
    }
    u, _ = tx.update(gradient, tx.init(theta), theta)
    values = np.linalg.svd(np.asarray(u["kernel"]).reshape(36, 8) / 0.02, compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # Adam's first step: in the gradient's sign.
    assert np.all(np.asarray(u["bias"]) < 0)


@pytest.mark.parametrize("name", ["lion", "general", "adam-tuned"])
def test_at_once_is_what_it_is_in_turn(name):
    """The same losses of all lengths, the same rate by the same search, the same measures."""
    optimizer = optimizers.OPTIMIZERS[name]._replace(refine=False)
    if optimizer.rates:
        optimizer = optimizer._replace(rates=(0.01, 0.1, 10.0, 20.0))
    (ours, our_work), (theirs, their_work) = both_ways(
        optimizer, SETTINGS._replace(num_steps=20, tune_runs=2)
    )
    assert list(ours.curves) == list(theirs.curves)
    for share, losses in ours.curves.items():
        np.testing.assert_allclose(losses, theirs.curves[share], rtol=1e-4)
    for measure, values in ours.measures.items():
        np.testing.assert_allclose(values, theirs.measures[measure], rtol=1e-4)
    assert set(ours.measures) == {"sum", "sum of run"}
    if optimizer.rates:
        assert ours.record["tuned"]["learning_rate"] == theirs.record["tuned"]["learning_rate"]
        assert our_work <= their_work  # it also has the runs that are only likely to be wanted
    else:
        assert ours.record == theirs.record
        assert our_work == pytest.approx(their_work)


def test_at_once_counts_a_rate_that_diverges():
    def constant(learning_rate, num_steps):
        del num_steps
        return lambda count: learning_rate

    sgd = {"constant": optimizers.WithRate(optax.sgd, constant)}
    optimizer = optimizers.Optimizer("SGD", "tuned", decays=sgd, rates=(1e-3, 1e30))
    _, (done, _) = both_ways(optimizer, SETTINGS._replace(num_steps=20))
    tuned = done.record["tuned"]["decays"]["constant"]
    assert tuned["grid"][-1] == np.inf
    assert 1e-3 <= tuned["learning_rate"] < 1
    assert np.isfinite(done.curves[1.0]).all()


def test_another_optimizer_of_the_same_name_is_refused(done, monkeypatch, capsys):
    lion = optimizers.OPTIMIZERS["lion"]._replace(build=lambda num_steps: optax.lion(1e-3))
    monkeypatch.setitem(optimizers.OPTIMIZERS, "lion", lion)
    assert in_process(suite, *TINY, f"--workdir={done}") == 1
    assert "is of another optimizer of the name 'lion'" in capsys.readouterr().err


def test_a_report_of_nothing_is_refused_and_costs_alone_are_shown(tmp_path, capsys):
    given = ["--tasks=quadratic-vector", "--optimizers=lion", f"--workdir={tmp_path}"]
    assert in_process(suite, *given, "--report_only") == 1
    assert "has no runs yet" in capsys.readouterr().err
    assert in_process(suite, *given, "--costs") == 0
    printed = capsys.readouterr().out
    assert "step (ms)" in printed
    assert "lion" in printed
    cost = json.loads((tmp_path / "quadratic-vector" / "costs.json").read_text())["lion"]
    assert cost["step"] > 0
    assert 4 <= cost["state_bytes_per_parameter"] < 4.2


def test_help_names_every_task_and_optimizer():
    for name in [*tasks.TASKS, *optimizers.OPTIMIZERS]:
        assert name in suite.__doc__
