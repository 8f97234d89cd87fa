import jax.numpy as jnp
import pytest

from learned_opt.evaluation import timing


class Clock:
    """Time that passes only while a program runs."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def program(self, name, seconds, first=None):
        """Takes `first` seconds once, as what has to be compiled, and `seconds` from then on."""

        def run():
            is_first = name not in self.calls
            self.calls.append(name)
            self.now += first if is_first and first is not None else seconds
            return jnp.zeros(())

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_programs_take_turns(clock):
    programs = {name: clock.program(name, 1.0) for name in "abc"}
    times = timing.interleaved(programs, 4, warm=False)
    assert "".join(clock.calls) == "abcbcacababc"
    assert times == {name: [1.0] * 4 for name in "abc"}


def test_compilation_is_not_timed(clock):
    times = timing.interleaved({"a": clock.program("a", 0.5, first=100.0)}, 2)
    assert times == {"a": [0.5, 0.5]}
    assert timing.interleaved({"b": clock.program("b", 0.5, first=100.0)}, 2, warm=False) == {
        "b": [100.0, 0.5]
    }


def test_short_programs_are_repeated_within_a_round(clock):
    """For at least 0.02 seconds: five times 0.004, after one run and two more that warm up."""
    programs = {"short": clock.program("short", 1 / 256), "long": clock.program("long", 0.25)}
    times = timing.interleaved(programs, 2)
    assert clock.calls.count("short") == 1 + 2 + 2 * 6
    assert clock.calls.count("long") == 1 + 2 + 2 * 1
    assert times["short"] == pytest.approx([1 / 256] * 2)
    assert times["long"] == [0.25] * 2


def test_a_bar_is_shown_for_a_title(clock, capfd):
    timing.interleaved({"a": clock.program("a", 1.0)}, 2, title="timing a", warm=False)
    assert "timing a" in capfd.readouterr().err
    timing.interleaved({"a": clock.program("a", 1.0)}, 2, warm=False)
    assert capfd.readouterr().err == ""
