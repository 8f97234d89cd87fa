"""The problems that a general optimizer is trained on."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tiny_networks, tiny_tasks
from learned_opt import data
from learned_opt.optimizees import base

KEY = jax.random.key(0)


def test_every_task_has_a_loss_and_slopes_everywhere():
    tasks = tiny_tasks.tiny_tasks(data.load("digits").train)
    assert len(tasks) == 5
    for task in tasks:
        family = base.as_family(task)
        problem = jax.jit(base.begin)(family, KEY)
        loss, gradient, _ = jax.jit(base.value_and_grad_at)(
            family, problem, problem.theta_0, 0, problem.statistics
        )
        assert np.isfinite(loss)
        for leaf in jax.tree.leaves(gradient):
            assert np.all(np.isfinite(leaf))
        moved = sum(float(jnp.sum(jnp.abs(g))) > 0 for g in jax.tree.leaves(gradient))
        assert moved >= 4


def test_a_convolution_is_that_of_xla():
    layer = tiny_networks.Convolution(4)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    theta = layer.init(KEY, x)
    kernel = theta["params"]["kernel"]
    want = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 0), (1, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(theta, x), want, atol=1e-5)


def test_images_are_shrunk_to_eight_by_eight():
    images = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)
    small = tiny_tasks._small(data.as_dataset((images, np.arange(2)))).images
    assert small.shape == (2, 8, 8, 1)
    means = images.astype(np.float64).mean(-1).reshape(2, 8, 4, 8, 4).mean((2, 4))
    want = (means - means.mean()) / means.std()
    np.testing.assert_allclose(small[..., 0], want, atol=1e-4)
