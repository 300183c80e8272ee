"""A run restored from its parameters alone, and its plots."""

import matplotlib.image

from tests.support.common import make_small_config
from vae_jax import datasets
from vae_jax.datasets import DataSpec
from vae_jax.evaluation import summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.rng_streams import make_root_key
from vae_jax.runtime.files import write_json
from vae_jax.training.metrics import COLUMNS
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.settings import evaluation_settings
from vae_jax.training.train_state import init_params
from vae_jax.training.weights import WEIGHTS_NAME, write_weights


def write_run(folder, data_name="mnist_5k", image_shape=(28, 28, 1)):
    """A run directory with parameters alone, which nothing trained; returns its replica."""
    config = make_small_config()
    config.data.name = data_name
    config.data.path = "photos" if data_name == "images" else None
    model = evaluation_settings(config, DataSpec(image_shape)).model
    params = init_params(model, make_root_key(0))
    write_weights(folder / WEIGHTS_NAME, params, {"epoch": "1", "step": "40"})
    write_json(folder / "config.json", {"config": config.to_dict(), "image_shape": image_shape})
    (folder / "metrics.csv").write_text(f"{','.join(COLUMNS)}\n{','.join('1' for _ in COLUMNS)}\n")
    [replica] = restore_best(RunDirectory.open(folder)).replicas
    return replica


def test_few_images_are_plotted_and_only_digits_in_negative(tmp_path):
    replica, test = write_run(tmp_path), datasets.load("mnist_5k").test
    for number in (2, 7, 25):
        summary.save_reconstructions(replica, test[:number])
        summary.save_interpolation(replica, test[:number])
        summary.save_samples(replica, number)
        for name in ("reconstructions", "interpolation", "samples"):
            assert matplotlib.image.imread(replica.plots / f"{name}.png").size
    assert replica.dark_on_light
    assert not write_run(tmp_path, "images").dark_on_light
    assert not write_run(tmp_path, image_shape=(8, 8, 3)).dark_on_light
