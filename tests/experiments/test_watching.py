"""What an optimizer makes of gradients: against formulas, and the program from end to end."""

import jax
import numpy as np
import optax
import pytest

import learned_opt
from experiments import habits, watched, watching
from experiments.habits import NUM_LAGS, Recorded
from learned_opt import _files, optimizees
from learned_opt.evaluation import comparison
from learned_opt.evaluation.baselines import Tuned
from learned_opt.meta.watching import OWN
from tests.experiments.programs import in_process

NUM_STEPS, DECAY = 40, 0.5


@pytest.fixture(scope="module")
def recorded():
    """Gradients of three coordinates in two runs, of different sizes."""
    rng = np.random.default_rng(0)
    sizes = np.array([0.01, 1.0, 30.0])[:, None]
    gradients = (sizes * rng.normal(size=(NUM_STEPS, 3, 2))).astype(np.float32)
    return Recorded(gradients, np.zeros_like(gradients))


@pytest.fixture(scope="module")
def momentum(recorded):
    tx = optax.sgd(0.1, momentum=DECAY)
    return habits.observe(tx, recorded, np.array([1, 20]), np.array([2, 5]))


def test_the_answer_of_momentum_decays(recorded, momentum):
    """-0.1 * 0.5^k times one standard deviation, at whatever step and in whatever run."""
    push = recorded.gradients.std(axis=0)
    lags = np.arange(NUM_LAGS + 1)
    expected = -0.1 * DECAY ** lags[:, None, None] * push
    # What is left of large sums in float32 is rounding.
    relative = (momentum.answers - expected) / push
    np.testing.assert_allclose(relative, 0, atol=1e-5)
    # The mean lag of 0.5^k is 1, and half of all comes later.
    np.testing.assert_allclose(habits.time_scale(momentum.answers), 1.0, atol=1e-3)
    np.testing.assert_allclose(habits.weight_of_past(momentum.answers), 0.5, atol=1e-4)


def test_updates_and_proposals_of_momentum(recorded, momentum):
    trace = np.zeros((3, 2))
    for t, gradient in enumerate(recorded.gradients):
        if t + 1 in (1, 20):
            i = (1, 20).index(t + 1)
            grid = np.asarray(habits.grid_of(recorded.gradients))
            expected = -0.1 * (grid + DECAY * trace)
            np.testing.assert_allclose(momentum.proposed[i], expected, rtol=1e-4, atol=1e-6)
        trace = gradient + DECAY * trace
        np.testing.assert_allclose(momentum.updates[t], -0.1 * trace, rtol=1e-4, atol=1e-6)
    assert not habits.is_step(momentum.proposed, recorded).any()
    assert not habits.rises(momentum.proposed).any()


def test_a_sign_is_a_step_and_another_sign_goes_the_other_way(recorded):
    at, pushes = habits.asked(NUM_STEPS)
    sign = habits.observe(optax.sign_sgd(0.1), recorded, at, pushes)
    assert habits.is_step(sign.proposed, recorded).all()
    uphill = habits.observe(optax.sgd(-0.1), recorded, at, pushes)
    assert habits.rises(uphill.proposed).all()
    np.testing.assert_array_equal(habits.weight_of_past(uphill.answers), 0)
    np.testing.assert_array_equal(habits.time_scale(uphill.answers), 0)
    others = {"SGD": habits.observe(optax.sgd(0.02), recorded, at, pushes), "Adam": sign}
    numbers = habits.numbers(uphill, others, recorded)
    np.testing.assert_allclose(numbers["size of updates over tuned SGD's"]["mean"], 5, rtol=1e-5)
    assert numbers["share of curves that rise with the gradient"]["low"] == 1
    assert numbers["share of steps against the gradient of their moment"]["mean"] == 1
    assert numbers["the same share of Adam"]["mean"] == 0
    assert numbers["share of Adam's curves that are step-like"]["mean"] == 1
    np.testing.assert_allclose(
        numbers["first update at a gradient of zero over its size"]["mean"], 0, atol=1e-6
    )


def test_shown_again_gradients_give_the_updates_that_were():
    """An LSTM on a quadratic, watched on its way and then shown the same gradients."""
    opt = learned_opt.lstm("quadratic", hidden_sizes=(4,))
    phi = opt.init(jax.random.key(0))
    seen = learned_opt.watch(
        (opt, phi), optimizees.quadratic(3), jax.random.key(1), NUM_STEPS, coordinates=range(3)
    )
    of_one_run = Recorded(seen.gradients[..., None], seen.theta[..., None])
    again = habits.observe((opt, phi), of_one_run, seen.at, np.array([3]))
    np.testing.assert_allclose(again.updates[..., 0], seen.updates[OWN], rtol=1e-3, atol=1e-5)


def test_few_steps():
    with pytest.raises(ValueError, match="num_steps must be more than 30, got 30"):
        habits.asked(NUM_LAGS)


@pytest.fixture
def small(tmp_path):
    """A small LSTM in a file, and the flags to watch it on a small quadratic."""
    opt = learned_opt.lstm("quadratic", hidden_sizes=(2,))
    learned_opt.save(tmp_path / "tiny.safetensors", opt, opt.init(jax.random.key(0)))
    return [
        f"--optimizer=tiny={tmp_path / 'tiny.safetensors'}",
        "--family=quadratic",
        '--arguments={"dim": 3}',
        "--num_steps=32",
        "--num_runs=3",
        "--tune_runs=1",
        "--coordinates=3",
        f"--workdir={tmp_path / 'results' / 'watching' / 'tiny'}",
        f"--tuned_dir={tmp_path / 'tuned'}",
    ]


@pytest.fixture
def tuned(monkeypatch):
    """SGD and Adam as if they had been tuned."""
    one = np.ones(1)
    tuned = {
        name: Tuned(name, 0.1, 1.0, build(0.1), one, one, one, (0.1,))
        for name, build in (("SGD", optax.sgd), ("Adam", optax.adam))
    }
    monkeypatch.setattr(comparison, "tune_all", lambda *args, **kwargs: tuned)


def test_from_the_command_line_to_the_page(small, tuned, tmp_path, capsys):
    assert in_process(watching, *small) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "results" / "watching" / "tiny"
    assert (folder / "table.md").read_text() in shown
    for picture in watched.PICTURES:
        assert (folder / f"{picture}.png").stat().st_size > 5_000
    summary = _files.read_json(folder / "summary.json")
    assert set(summary["answers"]) == {"tiny", "SGD", "Adam"}
    assert "/" not in summary["command"]
    kept = tmp_path / "docs" / "measured"
    assert watched.collect(str(tmp_path / "results"), str(kept)) == ["tiny"]
    text = watched.block(watched.read(str(kept))["tiny"])
    assert "3 runs of 32 steps, 3 coordinates; SGD at 0.1, Adam at 0.1, tuned on 1" in text
    assert "![tiny: answers](measured/watching/tiny-answers.png)" in text


@pytest.mark.thorough
def test_nothing_is_recorded_again(small, tuned, tmp_path, capsys):
    folder = tmp_path / "results" / "watching" / "tiny"
    assert in_process(watching, *small) == 0
    shown = capsys.readouterr().out
    before = (folder / "recorded.npz").stat().st_mtime_ns
    assert in_process(watching, *small) == 0
    assert capsys.readouterr().out == shown
    assert (folder / "recorded.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--optimizer=gac-quadratic"], "one whose coordinates do not depend on each other"),
        (["--family="], "--family must be given for 'tiny'"),
        (["--num_steps=31"], "num_steps must be a whole number of at least 32, got 31"),
        (["--family=sphere"], "unknown family 'sphere'"),
    ],
)
def test_messages(small, given, message, capsys):
    assert in_process(watching, *small, *given) == 1
    assert message in capsys.readouterr().err
