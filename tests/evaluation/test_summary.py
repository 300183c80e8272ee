"""The plots beside a summary, where there are few images."""

import matplotlib.image
import pytest

from tests.support.common import make_settings, small_vae
from vae_jax import datasets
from vae_jax.evaluation import summary
from vae_jax.evaluation.trained_run import Replica
from vae_jax.training import steps


@pytest.mark.parametrize("num_images", [1, 7, 25, 30])
def test_reconstructions_of_few_test_images(tmp_path, num_images):
    settings = make_settings(small_vae(2))
    params = steps.initial_state(settings, seed=0).params
    replica = Replica(tmp_path, 0, 1, 40, settings.evaluation, params)
    summary.save_reconstructions(replica, datasets.load("mnist_5k").test[:num_images])
    assert matplotlib.image.imread(tmp_path / "plots" / "reconstructions.png").size
