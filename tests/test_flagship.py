"""The trained flagship that comes with the repository is the one its record is of."""

import dataclasses

import pytest

from configs import default, flagship
from tests.support.common import ROOT, needs_mnist
from vae_jax import configuration, datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.files import read_record
from vae_jax.training import run_directory
from vae_jax.training.validation import evaluate_split

FOLDER = ROOT / "docs" / "flagship"


def test_it_is_of_the_configuration():
    run_directory.check_same_config(FOLDER, flagship.get_config().to_dict())


@needs_mnist
@pytest.mark.slow
def test_its_test_loss_is_the_record_s(prepared_mnist):
    fields = run_directory.read_config(FOLDER)
    config = configuration.from_dict(fields, default.get_config())
    config.data.data_dir = prepared_mnist
    replica = restore_best(config, FOLDER).replicas[0]
    images = datasets.load(**config.data).test.images
    summary = read_record(FOLDER / SUMMARY_NAME, Summary)
    [terms] = evaluate_split(replica.settings, replica.params, replica.root_key, images)
    assert terms == pytest.approx(dataclasses.asdict(summary.test), abs=1e-3)
    assert replica.epoch == summary.best_epoch
