"""Sweeps: what units follow, how they are carried out, and what stands in the table."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import recipes, sweep
from experiments.sweeps import claims, plan, programs, results, tables
from experiments.sweeps.folders import Folder
from experiments.sweeps.plan import Sweep
from learned_opt import _files
from learned_opt.evaluation import statistics
from tests.experiments import tiny
from tests.experiments.programs import in_process, program

TINY = "tests.experiments.tiny"
OVER = ["--over=learning_rate=0.01,0.1", "--over=seed=0:2", "--over=optimizer=a,b"]


def tiny_sweep(*over, **fixed):
    return Sweep(TINY, fixed, list(over))


def run(workdir, *given):
    return in_process(sweep, f"--workdir={workdir}", f"--program={TINY}", *given)


def settings(units):
    return [unit.settings for unit in units]


def starts(folder):
    lines = (pathlib.Path(folder) / "results" / "starts.txt").read_text().splitlines()
    return len(lines)


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# What a sweep is


def test_a_grid_is_every_combination():
    asked = Sweep(
        "p", {"recipe": "r"}, [{"learning_rate": "1e-3,3e-3", "seed": "0:2", "optimizer": ["a"]}]
    )
    expected = [
        {"recipe": "r", "learning_rate": 0.001, "seed": 0, "optimizer": "a"},
        {"recipe": "r", "learning_rate": 0.001, "seed": 1, "optimizer": "a"},
        {"recipe": "r", "learning_rate": 0.003, "seed": 0, "optimizer": "a"},
        {"recipe": "r", "learning_rate": 0.003, "seed": 1, "optimizer": "a"},
    ]
    assert settings(asked.units) == expected
    assert plan.from_plain(json.loads(json.dumps(asked.plain())), "it").units == asked.units


def test_grids_one_after_the_other_and_settings_that_change_together():
    first = {"optimizer": "a", "learning_rate": [0.1, 0.2]}
    second = {"architecture/preset": "lstm/mnist,rnnprop/null"}
    expected = [
        {"optimizer": "a", "learning_rate": 0.1},
        {"optimizer": "a", "learning_rate": 0.2},
        {"architecture": "lstm", "preset": "mnist"},
        {"architecture": "rnnprop", "preset": None},
    ]
    assert settings(Sweep("p", {}, [first, second]).units) == expected
    assert settings(Sweep("p", {}, [first, second, first]).units) == expected


def test_draws_are_seeded_and_each_meets_the_whole_grid():
    over = {"rate": "log:1e-4:1e-1", "seed": "0:2", "width": "int:1:3"}
    few, many = (Sweep("p", {}, [over], num, 7).units for num in (3, 200))
    assert settings(few) == settings(many)[:6]
    assert [unit.settings["seed"] for unit in few] == [0, 1] * 3
    for first, second in zip(few[::2], few[1::2], strict=True):
        assert first.settings["rate"] == second.settings["rate"]
    rates = np.array([unit.settings["rate"] for unit in many[::2]])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    assert len(set(rates)) == 200
    # Uniform in the logarithm: the mean exponent is in the middle, within four standard errors.
    assert abs(np.log10(rates).mean() + 2.5) < 4 * 3 / np.sqrt(12 * 200)
    assert {unit.settings["width"] for unit in many} == {1, 2, 3}
    # What is drawn of one setting does not depend on what else is drawn.
    alone = Sweep("p", {}, [{"rate": "log:1e-4:1e-1"}], 3, 7).units
    assert [unit.settings["rate"] for unit in alone] == rates[:3].tolist()


def test_parts_partition():
    units = Sweep("p", {}, [{"seed": "0:11"}]).units
    parts = [plan.part_of(units, f"{i}/4") for i in range(1, 5)]
    assert sorted(len(part) for part in parts) == [2, 3, 3, 3]
    assert sorted(unit.settings["seed"] for part in parts for unit in part) == list(range(11))


def test_a_unit_is_known_by_what_it_computes():
    def name(**given):
        return plan.Unit("p", given).name

    assert name(a=1, b="x") == name(b="x", a=1)
    assert name(a=1) != name(a=2)
    assert name(a=1) != name(a="1")
    assert name(a=1, data_dir="/here") == name(a=1, data_dir="/there")
    assert name(a=1, **{"env.CUDA_VISIBLE_DEVICES": "{slot}"}) == name(a=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--over=learning_rat=1"], r"unknown setting of .*'learning_rat'\. Did you mean 'learn"),
        (["--over=seed=0.5"], "seed of .* must be a whole number, got 0.5"),
        (["--over=workdir=a,b"], "workdir cannot be swept"),
        (["--over=learning_rate=log:1e-3:1"], "random is 0: say how many draws with --random=20"),
        (["--over=seed=0:2", "--random=3"], "random is 3, and no setting is drawn"),
        (["--over=learning_rate=log:0:1", "--random=3"], "from a number above 0 to a larger one"),
        (["--over=seed=3:3"], "seed must have a value, got '3:3'"),
        (["--over=seed"], "--over must be NAME=VALUE, got 'seed'"),
        (["--over=seed=1", "--over=seed=2"], "--over has 'seed' twice"),
        (["--over=seed=1", "--set=seed=2"], "seed is both fixed and varied"),
        (["--over=optimizer/seed=a/1,b"], "must have 2 values joined by '/' in each place"),
        (["--over=seed=0:2", "--parts=3/2"], "parts must be i/n with i from 1 to n"),
        (["--over=seed=0:2", "--best_over=sed"], "unknown setting of --best_over: 'sed'"),
        (["--program=tests.no", "--over=seed=1"], "there is no program 'tests.no'"),
        (["--program=json.tool", "--over=seed=1"], "has neither --workdir nor --output"),
        ([], "there is no sweep in"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(tmp_path, capsys, given, message):
    workdir = tmp_path / "sweep"
    assert run(workdir, *given) == 1
    assert not workdir.exists()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(("ValueError", "FileNotFoundError"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(said)


def test_places_of_a_recipe(capsys, tmp_path):
    given = [
        "--set=recipe=lstm-quadratic",
        "--set=family.arguments.dim=3",
        "--over=learning_rate=1,0.01",
        "--over=estimator.window=5,10",
    ]
    folder = tmp_path / "sweep"
    assert in_process(sweep, f"--workdir={folder}", "--plan", *given) == 0
    assert "4 units" in capsys.readouterr().out
    unit = plan.read(str(folder)).units[0]
    command = programs.command(programs.describe("experiments.train"), unit, "F", 0)
    assert command[3:] == [
        "experiments.train",
        "--recipe=lstm-quadratic",
        "--set=family.arguments.dim=3",
        "--set=learning_rate=1",
        "--set=estimator.window=5",
        "--workdir=F",
    ]
    changes = {"family.arguments.dim": 3, "learning_rate": 1, "estimator.window": 5}
    recipe = recipes.RECIPES["lstm-quadratic"].changed(changes)
    assert recipe.family.arguments == {"dim": 3}
    assert recipe.learning_rate == 1.0
    assert isinstance(recipe.learning_rate, float)
    assert recipe.estimator.window == 5
    assert in_process(sweep, f"--workdir={tmp_path}/b", *given, "--set=estimator.windw=2") == 1
    assert (
        "'estimator.windw' of a recipe: 'windw'. Did you mean 'window'" in capsys.readouterr().err
    )


def test_values_as_flags_have_them():
    given = {"num_runs": 4, "arguments": {"dim": 2}, "learning_rate": 1e-3, "optimizer": None}
    unit = plan.Unit("experiments.curves", {**given, "env.SLOT": "{slot}"})
    described = programs.Program(unit.program, dict.fromkeys(given, "string"), "workdir")
    assert programs.command(described, unit, "F", 3)[4:] == [
        "--num_runs=4",
        '--arguments={"dim": 2}',
        "--learning_rate=0.001",
        "--workdir=F",
    ]
    assert programs.environment(unit, 3)["SLOT"] == "3"
    assert plan.text([True, 1]) == "true,1"


def test_what_is_a_function_in_a_recipe_has_no_places():
    taught = recipes.RECIPES["rnnprop-long"]
    with pytest.raises(ValueError, match=r"estimator\.window of this recipe cannot be changed"):
        taught.changed({"estimator.window": 5})
    changed = taught.changed({"validation.num_problems": 3, "num_steps": 50})
    assert (changed.validation.num_problems, changed.num_steps) == (3, 50)
    assert changed.validation.selection == "last"


# How it is carried out


def test_a_sweep_runs_and_its_table_has_numpy_s_numbers(tmp_path, capsys):
    assert run(tmp_path, *OVER, "--jobs=2", "--set=env.SLOT={slot}", "--set=data_dir=/x") == 0
    out = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() in out
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(tmp_path / "work")) == sorted(os.listdir(tmp_path / "claims")) == []
    assert len(os.listdir(tmp_path / "units")) == 8
    groups = json.loads((tmp_path / "summary.json").read_text())
    assert [group["place"] for group in groups] == [{"optimizer": "a"}, {"optimizer": "b"}]
    for group in groups:
        assert group["best"] == {"learning_rate": 0.1}
        for setting in group["settings"]:
            assert setting["seeds"] == [[0], [1]]
            rate, letter = setting["learning_rate"], group["place"]["optimizer"]
            finals = [tiny.losses(rate, seed, letter)[:, -1] for seed in (0, 1)]
            mean, low, high = statistics.interval(np.array(finals))
            assert setting["loss"]["mean"] == pytest.approx(np.mean(finals))
            assert (setting["loss"]["low"], setting["loss"]["high"]) == pytest.approx((low, high))
            assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in out
    slots = set()
    for path in (tmp_path / "units").iterdir():
        slots.add((path / "results" / "starts.txt").read_text().split()[1])
    assert slots <= {"0", "1"}
    # The sweep itself takes no device: its units need them.
    check = (
        f"import sys; sys.argv = ['sweep', '--workdir={tmp_path}', '--status']\n"
        "from jax._src import xla_bridge; from experiments import sweep, main\n"
        "sweep.define_flags()\n"
        "try: main.run(sweep.run)\n"
        "finally: print('backends', len(xla_bridge._backends))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "backends 0" in done.stdout
    assert "Nothing is left to do." in done.stdout


def test_the_last_part_writes_the_table(tmp_path, capsys):
    over = ["--over=seed=0:3"]
    assert run(tmp_path, *over, "--plan") == 0
    assert "3 units" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["sweep.json"]
    assert in_process(sweep, f"--workdir={tmp_path}", "--parts=2/2") == 0
    assert "Part 2/2 is through; 2 units of other parts are left." in capsys.readouterr().out
    assert not (tmp_path / "table.md").exists()
    assert in_process(sweep, f"--workdir={tmp_path}", "--parts=1/2") == 0
    assert (tmp_path / "table.md").exists()


def test_a_sweep_grows_and_does_not_shrink(tmp_path, capsys):
    assert run(tmp_path, "--over=seed=0:1") == 0
    (unit,) = os.listdir(tmp_path / "units")
    assert run(tmp_path, "--over=seed=0:2") == 0
    assert starts(tmp_path / "units" / unit) == 1
    assert len(os.listdir(tmp_path / "units")) == 2
    assert run(tmp_path, "--over=seed=1:3") == 1
    assert "belongs to a sweep that also has" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a file").touch()
    assert run(tmp_path / "other", "--over=seed=1:3") == 1
    assert "is not empty, and holds no sweep" in capsys.readouterr().err


def test_three_failures_are_reported_and_the_rest_is_done(tmp_path, capsys):
    given = ["--over=mode=bad,flaky,good", "--set=learning_rate=1"]
    assert run(tmp_path, *given) == 1
    captured = capsys.readouterr()
    assert "1 unit has failed; --retry tries it again:" in captured.err
    assert "mode=bad, 3 times, the last one with exit status 1: ValueError: it is bad" in (
        captured.err
    )
    names = {unit.settings["mode"]: unit.name for unit in plan.read(str(tmp_path)).units}
    assert sorted(os.listdir(tmp_path / "units")) == sorted([names["flaky"], names["good"]])
    assert starts(tmp_path / "work" / names["bad"]) == 3
    flaky = tmp_path / "units" / names["flaky"]
    assert _files.read_json(flaky / "done.json")["tries"] == 2
    assert [failure["status"] for failure in _files.read_json(flaky / "failures.json")] == [3]
    assert "| -" not in captured.out
    # It is not tried again unless that is asked for.
    assert run(tmp_path) == 1
    assert starts(tmp_path / "work" / names["bad"]) == 3
    capsys.readouterr()
    assert run(tmp_path, "--status") == 0
    shown = capsys.readouterr().out
    assert "done     2\n" in shown
    assert "failed   1\n" in shown
    assert run(tmp_path, "--retry", "--tries=1") == 1
    assert starts(tmp_path / "work" / names["bad"]) == 4


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
)
def test_a_sweep_that_is_killed_goes_on(tmp_path, number, capsys):
    """After SIGTERM and after SIGKILL no program is left behind, and no work is lost."""
    given = [f"--workdir={tmp_path}", f"--program={TINY}", "--over=mode=good,slow"]
    command = [sys.executable, "-m", "experiments.sweep", *given]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    names = [plan.Unit(TINY, {"mode": mode}).name for mode in ("good", "slow")]
    half = tmp_path / "work" / names[1] / "results" / "half"
    wait_for(half.exists)
    claim = str(tmp_path / "claims" / f"{names[1]}.json")
    child = claims.read(claim)["child"]
    assert claims.is_live(claim)
    assert run(tmp_path, "--status") == 0
    shown = capsys.readouterr().out
    assert f"mode=slow: process {process.pid} of {socket.gethostname()}" in shown
    assert "About" in shown
    if number == signal.SIGTERM:  # to both, as Slurm does: that is no failure of the unit
        os.kill(child["pid"], number)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert "the same command goes on from here" in said
        assert not os.path.exists(claim)
    wait_for(lambda: not claims._is_running(child))
    assert os.listdir(tmp_path / "units") == [names[0]]
    assert run(tmp_path) == 0
    assert sorted(os.listdir(tmp_path / "units")) == sorted(names)
    assert starts(tmp_path / "units" / names[0]) == 1
    assert starts(tmp_path / "units" / names[1]) == 2
    assert _files.read_json(tmp_path / "units" / names[1] / "done.json")["tries"] == 1


@pytest.mark.thorough
def test_two_sweeps_at_once_share_the_work(tmp_path):
    given = [f"--workdir={tmp_path}", f"--program={TINY}", "--over=seed=0:6"]
    command = [sys.executable, "-m", "experiments.sweep", *given]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    units = list((tmp_path / "units").iterdir())
    assert len(units) == 6
    assert [starts(unit) for unit in units] == [1] * 6


def test_a_folder_of_another_configuration_is_refused(tmp_path, capsys):
    ours, theirs = tiny_sweep({"seed": "0:2"}).units
    folder = Folder(str(tmp_path), ours)
    folder.begin()
    os.makedirs(tmp_path / "units")
    os.rename(folder.work, Folder(str(tmp_path), theirs).done)
    plan.claim(str(tmp_path / "new"), tiny_sweep({"seed": "0:2"}))
    os.rename(tmp_path / "units", tmp_path / "new" / "units")
    for given in (["--over=seed=0:2"], ["--status"]):
        assert run(tmp_path / "new", *given) == 1
        said = capsys.readouterr().err
        assert f"{theirs.name} is not that of {TINY} seed=1, but of another configuration" in said
    assert not (tmp_path / "new" / "work").exists()


def test_a_claim_is_held_by_one(tmp_path):
    path = str(tmp_path / "claims" / "unit.json")
    claim = claims.take(path)
    assert claim.is_held()
    assert claims.take(path) is None
    claim.release()
    assert not os.path.exists(path)
    assert claims.take(path).is_held()


def test_a_stale_claim_is_taken_over(tmp_path):
    path = str(tmp_path / "unit.json")
    lost = claims.take(path)
    owner = claims.read(path)
    # Another machine: what counts is the last sign of life.
    _files.write_json(path, {**owner, "machine": "another"})
    assert claims.take(path) is None
    old = time.time() - claims.STALE - 1
    os.utime(path, (old, old))
    taken = claims.take(path)
    assert taken is not None
    assert not lost.is_held()
    lost.release()
    assert taken.is_held()
    # This machine: what counts is the process, not one that has its number by chance.
    process = {**owner["process"], "started": "another time"}
    _files.write_json(path, {**owner, "process": process})
    assert claims.take(path) is not None
    # A program whose sweep is gone is waited for.
    _files.write_json(path, {**owner, "process": process, "child": owner["process"]})
    assert claims.take(path) is None


def test_a_claim_that_is_not_written_yet_is_live(tmp_path):
    path = tmp_path / "unit.json"
    path.touch()
    assert claims.take(str(path)) is None


# What came out


def outcome(finals):
    finals = np.array(finals, float)
    return results.Outcome(finals[:, None], finals, "step", "loss")


def test_the_best_is_chosen_among_settings_with_all_seeds():
    asked = Sweep("p", {}, [{"learning_rate": [0.1, 0.2, 0.3], "seed": "0:2"}])
    finals = {(0.1, 0): 1, (0.1, 1): 3, (0.2, 0): 1, (0.3, 0): np.inf, (0.3, 1): 0}
    outcomes = []
    for unit in asked.units:
        key = unit.settings["learning_rate"], unit.settings["seed"]
        if key in finals:
            outcomes.append((unit, outcome([finals[key]])))
    (group,) = results.groups(asked, outcomes)
    assert group.best.values == (0.1,)
    assert group.best.summary.mean == 2
    table = tables.whole_table([group], ["learning_rate"])
    assert "| 0.2           | 1              | 0 %      | 1 of 2 |" in table
    assert "| 0.3           | inf [inf, inf] | 50 %     | 2      |" in table


def test_rates_that_cannot_be_told_apart_stand_in_brackets():
    asked = Sweep("p", {}, [{"learning_rate": [0.1, 0.2, 0.3]}])
    noise = np.random.default_rng(0).normal(size=40)
    finals = [noise + 5, noise + 5 + 0.1 * noise[::-1] - 0.1 * noise.mean() + 0.001, noise + 6]
    outcomes = [(u, outcome(f)) for u, f in zip(asked.units, finals, strict=True)]
    (group,) = results.groups(asked, outcomes)
    assert [setting.values for setting in group.tied] == [(0.1,), (0.2,)]
    assert "| 0.1* [0.1, 0.2] |" in tables.best_table([group], ["learning_rate"])


def test_benchmarks_stand_in_one_table(tmp_path):
    asked = Sweep("benchmarks.update", {}, [{"env.JAX_NUM_CPU_DEVICES": [1, 2]}])
    done = []
    for unit, devices in zip(asked.units, (1, 2), strict=True):
        folder = Folder(str(tmp_path), unit)
        record = {
            "benchmark": "update",
            "environment": {"num_devices": devices, "device": "cpu"},
            "results": [
                {
                    "coordinates": size,
                    "optimizer": "lstm",
                    "seconds": [0.1],
                    "time": {"low": size, "median": 2.0 * size, "high": 3 * size},
                }
                for size in (10, 100)
            ],
        }
        _files.write_json(os.path.join(folder.done, "results", "results.json"), record)
        done.append(folder)
    text = tables.write(str(tmp_path), asked, done)
    assert (
        "| 2                       | 2 x cpu | 100         | lstm      | 200 (100 - 300) |" in text
    )
    assert text.count("lstm") == 4
    assert (tmp_path / "sweep.png").exists()


# Other programs


def test_curves_of_one_optimizer(tmp_path, capsys):
    given = ["--num_steps=3", "--num_runs=4", "--learning_rate=0.001", '--arguments={"dim": 2}']
    from experiments import curves

    assert in_process(curves, f"--workdir={tmp_path}/sgd", "--optimizer=SGD", *given) == 0
    found = results._of_curves(str(tmp_path / "sgd"))
    assert found.curves.shape == (4, 4)
    summary = _files.read_json(tmp_path / "sgd" / "summary.json")
    assert summary["last"]["mean"] == pytest.approx(found.finals.mean())
    assert f"{found.finals.mean():.4g}" in capsys.readouterr().out
    assert in_process(curves, f"--workdir={tmp_path}/x", "--optimizer=gac-quadratic", *given) == 1
    assert "learning_rate is for SGD" in capsys.readouterr().err


def test_files_that_start_a_sweep_are_well_formed():
    """Their commands are run by other programs: what can be checked is their form."""
    yaml = pytest.importorskip("yaml")
    launch = pathlib.Path(sweep.__file__).parent / "launch"
    for path in launch.iterdir():
        text = path.read_text()
        if path.suffix == ".sh":
            subprocess.run(["bash", "-n", path], check=True)
        else:
            assert yaml.safe_load(text)
        words = " ".join(text.replace("#", "").split())
        commands = re.findall(r"-m experiments\.sweep((?: --\w+(?:=\S+)?)+)", words)
        flags = [tuple(re.findall(r" --(\w+)", command)) for command in commands]
        assert set(flags) == {("workdir", "plan", "over"), ("workdir", "parts")}, path


# Slurm


# submitit rebinds the streams of the process that imports it, so it has processes of its own.
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed"
)


@needs_submitit
@pytest.mark.thorough
def test_an_array_of_parts(tmp_path, capsys):
    """A part that is pre-empted goes on where it was."""
    over = ["--over=mode=good,slow,bad", "--tries=1"]
    command = [f"--workdir={tmp_path}", f"--program={TINY}", *over]
    command += ["--executor=local", "--num_parts=2", "--slurm=timeout_min=5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *command], stdout=subprocess.PIPE, text=True
    )
    names = {mode: plan.Unit(TINY, {"mode": mode}).name for mode in ("good", "slow", "bad")}
    wait_for((tmp_path / "work" / names["slow"] / "results" / "half").exists)
    claim = claims.read(str(tmp_path / "claims" / f"{names['slow']}.json"))
    # What Slurm sends to all processes of a job before it ends it.
    os.kill(claim["child"]["pid"], signal.SIGUSR2)
    os.kill(claim["process"]["pid"], signal.SIGUSR2)
    out, _ = process.communicate(timeout=60)
    assert "3 units in 2 jobs" in out
    assert "done     2\n" in out
    assert "failed   1\n" in out
    assert sorted(os.listdir(tmp_path / "units")) == sorted([names["good"], names["slow"]])
    assert starts(tmp_path / "units" / names["slow"]) == 2
    assert not (tmp_path / "units" / names["slow"] / "failures.json").exists()
    assert (tmp_path / "table.md").exists()
    assert run(tmp_path, "--executor=local", "--tries=1") == 0
    assert "Nothing is left to do." in capsys.readouterr().out


@needs_submitit
def test_a_parameter_that_submitit_does_not_know(tmp_path):
    given = [f"--workdir={tmp_path}", f"--program={TINY}", "--over=seed=0:1"]
    done = program("sweep", *given, "--executor=local", "--slurm=partitoin=x")
    assert done.returncode == 1
    assert "a parameter of --slurm is not known to submitit" in done.stderr


def test_submitit_is_asked_for_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run(tmp_path, "--over=seed=0:1", "--executor=slurm") == 1
    assert "--executor=slurm needs submitit: pip install submitit." in capsys.readouterr().err
