"""The trained models that come with the repository are those their records are of."""

import dataclasses
import subprocess
import sys

import pytest

import vae_jax
from configs import default, flagship, small
from tests.support.common import ROOT, needs_mnist
from vae_jax import configuration, datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.files import read_record
from vae_jax.training import run_directory
from vae_jax.training.validation import evaluate_split

FOLDERS = {"flagship": flagship, "small": small}
_MOST_BYTES = {"flagship": 12e6, "small": 5e6}


@pytest.mark.parametrize("name", FOLDERS)
def test_they_are_of_their_configurations_and_load(name):
    folder = ROOT / "docs" / name
    run_directory.check_same_config(folder, FOLDERS[name].get_config().to_dict())
    assert vae_jax.load_run(folder).sample(2).shape == (2, 28, 28, 1)
    assert (folder / "weights.safetensors").stat().st_size < _MOST_BYTES[name]


_IN_THREADS = """
import concurrent.futures
import numpy as np
from vae_jax.runtime import compilation
compilation.set_cpu_flags()
import vae_jax
from vae_jax import datasets
vae = vae_jax.load_run("docs/flagship")
images = np.float32(datasets.load("mnist_5k").test.images[:400] > 127)
expected = [vae.log_likelihood(half, 50) for half in np.split(images, 2)]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for _ in range(2):
        found = pool.map(lambda half: vae.log_likelihood(half, 50), np.split(images, 2))
        np.testing.assert_array_equal(list(found), expected)
"""


@pytest.mark.slow
def test_threads_of_a_program_get_the_numbers_of_one():
    """With our flags, two XLA programs side by side gave others, for 9 of 200 images."""
    subprocess.run([sys.executable, "-c", _IN_THREADS], cwd=ROOT, check=True)


@needs_mnist
@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_the_test_loss_is_the_record_s(prepared_mnist, name):
    folder = ROOT / "docs" / name
    fields = run_directory.read_config(folder)
    config = configuration.from_dict(fields, default.get_config())
    config.data.data_dir = prepared_mnist
    replica = restore_best(config, folder).replicas[0]
    images = datasets.load(**config.data).test.images
    summary = read_record(folder / SUMMARY_NAME, Summary)
    [terms] = evaluate_split(replica.settings, replica.params, replica.root_key, images)
    assert terms == pytest.approx(dataclasses.asdict(summary.test), abs=1e-3)
    assert replica.epoch == summary.best_epoch
