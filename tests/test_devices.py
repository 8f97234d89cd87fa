import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from learned_opt import devices
from learned_opt.devices import PROBLEMS, Shards
from learned_opt.evaluation import counting

VALUES = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


def laid_out(shards, num_devices, trials=1):
    with devices.use(jax.devices()[:num_devices]):
        return devices.layout(shards, trials)


def test_everything_goes_over_all_devices_or_those_that_are_chosen():
    assert devices.all_devices() == tuple(jax.devices())
    with devices.use(jax.devices()[1:3]):
        assert devices.all_devices() == tuple(jax.devices()[1:3])
    with jax.default_device(jax.devices()[2]):
        assert devices.all_devices() == (jax.devices()[2],)
    with pytest.raises(ValueError, match="devices must be one of"), devices.use([]):
        pass


def test_one_shard_is_the_work_as_it_is():
    shards = laid_out(1, 4)
    assert shards == Shards()
    tree = {"x": jnp.arange(3.0)}
    assert shards.each(lambda shard, t: t, tree) is tree
    assert shards.mean(tree) is tree
    assert shards.gathered(tree) is tree
    key = jax.random.key(0)
    assert shards.key(key, 3) is key


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_a_mean_has_the_bits_of_a_sum_written_out_in_the_order_of_the_shards(num_devices):
    shards = laid_out(8, num_devices)

    def run(values):
        def row(shard):
            return {"a": values[shard], "b": values[shard, 0].astype(jnp.bfloat16)}

        return shards.mean(shards.each(row))

    mapped = shards.over_devices(run, (P(),), P())
    got = jax.jit(mapped)(VALUES)
    total = VALUES[0]
    for row in VALUES[1:]:
        total = total + row
    np.testing.assert_array_equal(got["a"], total / np.float32(8))
    assert got["b"].dtype == jnp.bfloat16
    text = jax.jit(mapped).lower(VALUES).compile().as_text()
    assert counting.count(text).num_collectives == 2  # one for each dtype


def test_every_shard_has_its_number_and_what_belongs_to_it():
    shards = laid_out(8, 4)
    doubled = shards.over_devices(
        lambda x: shards.each(lambda shard, own: own + 100 * shard, x), (P(PROBLEMS),), P(PROBLEMS)
    )
    got = jax.jit(doubled)(jnp.arange(8.0))
    np.testing.assert_array_equal(got, np.arange(8) + 100 * np.arange(8))


def test_a_sum_over_all_axes_of_any_mesh():
    mesh = jax.make_mesh((2, 2), ("a", "b"), (AxisType.Auto,) * 2)

    def run(x):
        return devices.total({"x": x}, ("a", "b"))["x"]

    mapped = jax.shard_map(run, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(), check_vma=False)
    rows = VALUES[:4]
    want = ((rows[0] + rows[1]) + rows[2]) + rows[3]
    np.testing.assert_array_equal(jax.jit(mapped)(rows)[0], want)


@pytest.mark.parametrize(
    ("shards", "trials", "mesh"),
    [(8, 1, (1, 4)), (1, 4, (4, 1)), (2, 2, (2, 2)), (1, 12, (4, 1)), (4, 3, (1, 4))],
)
def test_trials_take_the_devices_that_they_can_share_and_shards_the_rest(shards, trials, mesh):
    found = laid_out(shards, 4, trials)
    assert (found.mesh.shape["trials"], found.mesh.shape["problems"]) == mesh


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: laid_out(2, 4), r"shards=2 cannot be shared by 4 devices: give a multiple of 4"),
        (lambda: laid_out(1, 4, 3), "3 seeds with shards=1 each cannot be shared by 4 devices"),
        (
            lambda: Shards(4, jax.make_mesh((4,), ("data",), (AxisType.Auto,))),
            "the mesh must have an axis 'trials', got one with data=4",
        ),
        (lambda: Shards(6, laid_out(4, 4).mesh), "shards=6 must be a multiple of the axis"),
        (lambda: devices.start("host:1"), "go together: give all three, or none"),
    ],
)
def test_what_is_not_possible_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_pieces_of_work_that_are_no_multiple_of_the_devices():
    shards = devices.spread(6)
    assert shards.num == 4
    parts = devices.parted(
        {"x": jnp.arange(6), "key": jax.random.split(jax.random.key(0), 6)}, shards
    )
    assert parts["x"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert parts["key"].shape == (8,)
    assert len(parts["x"].sharding.device_set) == 4
    assert devices.spread(1) == Shards()


def test_what_lies_on_a_mesh_becomes_ordinary_arrays():
    mesh = laid_out(4, 4).mesh
    x = devices.placed({"x": jnp.arange(4.0), "name": "n"}, mesh, P(PROBLEMS))
    assert x["name"] == "n"
    here = devices.to_local(x["x"])
    assert here.sharding.device_set == {jax.devices()[0]}
    np.testing.assert_array_equal(here, np.arange(4.0))


def test_one_process_is_the_first_and_agrees_with_itself():
    assert devices.is_first()
    assert not devices.is_several()
    assert devices.of_all({"a": 1}) == [{"a": 1}]
    assert devices.most(1, 2.5) == [1, 2.5]
    devices.check_alike("settings", {"a": 1})


def test_importing_everything_starts_no_backend():
    """Several processes cannot come together once one has started."""
    program = (
        "import jax\n"
        "from jax._src import xla_bridge\n"
        "import learned_opt, experiments.reproduce, experiments.train, experiments.thousands\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
