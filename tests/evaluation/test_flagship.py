"""The trained flagship that comes with the repository is the one its record is of."""

import os
from pathlib import Path

import pytest

from configs import default, flagship
from vae_jax import configuration, evaluate
from vae_jax.training import run_directory

MNIST_DIR = os.environ.get("MNIST_DIR")
FOLDER = Path(__file__).parent.parent / "docs" / "flagship"


def test_it_is_of_the_configuration():
    run_directory.check_same_config(FOLDER, flagship.get_config().to_dict())


@pytest.mark.skipif(not MNIST_DIR, reason="MNIST_DIR names no folder with MNIST")
def test_its_test_loss_is_the_record_s(tmp_path):
    held = run_directory.read_config(FOLDER)
    config = configuration.from_dict(held, default.get_config())
    config.data.data_dir, config.data.manual_dir = str(tmp_path), MNIST_DIR
    replica = evaluate.restore_best(config, FOLDER).replicas[0]
    images = evaluate.load_dataset(config).test.images
    record = run_directory.read_json(FOLDER / "summary.json")
    found = evaluate.evaluate_split(replica.settings, replica.state, images)[0]
    assert found == pytest.approx(record["test"], abs=1e-3)
    assert replica.epoch == record["best_epoch"]
