"""One program in several processes: the same bits, one notice for all, no hang.

All of them are started as a user starts them, by `tests.processes`.
"""

import json
import os
import signal

import pytest

from tests import kills
from tests.processes import Group, identity

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """What one group has compiled, the next ones read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="module")
def alone():
    """What identifies the result of one process with one device."""
    codes, printed, errors = Group(None, 1, 1).ends()
    assert codes == [0], errors
    return identity(printed)


@pytest.mark.parametrize(("num_processes", "num_devices"), [(1, 2), (1, 8), (2, 2), (4, 1)])
def test_any_number_of_processes_and_devices_gives_the_same_bits(alone, num_processes, num_devices):
    codes, printed, errors = Group(None, num_processes, num_devices).ends(300)
    assert codes == [0] * num_processes, errors
    assert identity(printed) == alone
    # The first shows, the others are silent.
    for stderr in errors[1:]:
        assert [line for line in stderr.splitlines() if "Gloo" not in line] == []


def test_a_notice_to_one_is_one_to_all_and_others_go_on(alone, tmp_path):
    group = Group(tmp_path, 2, 2, wait=0.2)
    assert group.wait_for("window 5")
    group.signal(1, signal.SIGTERM)
    codes, _, errors = group.ends()
    assert codes == [128 + signal.SIGTERM] * 2
    assert "meta-training stopped on signal 15 after window" in errors[0]
    assert "meta-training stopped" not in errors[1]
    codes, printed, _ = Group(tmp_path, 1, 4, wait=0.01).ends()
    assert codes == [0]
    assert "window 1\n" not in printed  # it did not begin again
    assert identity(printed) == alone


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all_and_others_go_on(alone, tmp_path, victim):
    """The coordinator, or another one."""
    group = Group(tmp_path, 2, 1, wait=0.2)
    assert group.wait_for("window 8")
    group.signal(victim, signal.SIGKILL)
    codes, _, errors = group.ends(60)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, None)
    if victim == 1:
        assert "Start all processes again" in errors[0]
    codes, printed, errors = Group(tmp_path, 2, 2).ends(300)
    assert codes == [0, 0], errors
    assert identity(printed) == alone


def test_kills_at_random_moments(tmp_path):
    counts = kills.count(5, str(tmp_path), seed=1)
    assert counts["same"] == counts["runs"]


def refused(group):
    """The line of the first process, where all of them leave with an error and soon."""
    codes, _, errors = group.ends(100)
    assert codes == [1, 1], errors
    return "\n".join(line for line in errors[0].splitlines() if "Gloo" not in line)


def test_what_processes_do_not_have_alike_is_told():
    other = {"LEARNED_OPT_NATIVE": "0"}
    words = refused(Group(None, 2, 1, environment={1: other}))
    assert words.startswith("DisagreementError: all processes must have the same versions")
    assert "C++ loops" in words
    words = refused(Group(None, 2, 1, of_each=[["--num_epochs=2"], ["--num_epochs=3"]]))
    assert "the same flags, but process 0 has num_epochs='2' and process 1 has '3'" in words


def test_a_file_system_that_is_not_shared_is_told(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    words = refused(Group("run", 2, 1, cwd=folders))
    assert "process 1 does not see what process 0 writes to run" in words
    assert not os.listdir(folders[1])


def test_shards_that_the_devices_do_not_divide_are_told():
    words = refused(Group(None, 2, 3))
    assert words == (
        "ValueError: shards=8 cannot be shared by 6 devices: give a multiple of 6 as shards, or "
        "fewer devices (learned_opt.devices.use)."
    )
    words = refused(Group(None, 2, 1, "--shards=1"))
    assert "shards=1 is work for one device, and 2 processes have 2" in words


def test_a_workdir_of_other_settings_is_told(tmp_path):
    with open(tmp_path / "meta_train.json", "w", encoding="utf-8") as f:
        json.dump({"format": 2, "shards": 4}, f)
    words = refused(Group(tmp_path, 2, 1))
    assert words.startswith(f"ValueError: workdir {tmp_path} belongs to a run with")
