"""The trained models that come with the repository are those of their records."""

import pytest

import vae_jax
from tests.support.common import ROOT, needs_mnist
from tests.support.processes import run_python
from vae_jax import datasets
from vae_jax.evaluation.measures import SUMMARY_NAME, Summary
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.runtime.files import read_record
from vae_jax.training.batches import to_batch
from vae_jax.training.run_directory import RunDirectory, check_same_config
from vae_jax.training.validation import evaluate_split

_MAX_BYTES = {"flagship": 12e6, "small": 5e6}  # of each one's parameters
_IN_THREADS = """
import concurrent.futures
import numpy as np
from vae_jax.runtime import compilation
compilation.set_cpu_flags()
import vae_jax
from vae_jax import datasets
vae = vae_jax.load_run("models/flagship")
images = np.float32(datasets.load("mnist_5k").test.images[:400] > 127)
expected = [vae.log_likelihood(half, num_samples=50) for half in np.split(images, 2)]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for _ in range(2):
        found = pool.map(lambda half: vae.log_likelihood(half, num_samples=50), np.split(images, 2))
        np.testing.assert_array_equal(list(found), expected)
"""


@pytest.mark.parametrize("name", _MAX_BYTES)
def test_they_are_of_their_configurations_and_load(name):
    folder = ROOT / "models" / name
    check_same_config(RunDirectory.open(folder), vae_jax.get_config(name))
    assert vae_jax.load_run(folder).sample(2).shape == (2, 28, 28, 1)
    assert (folder / "weights.safetensors").stat().st_size < _MAX_BYTES[name]


@pytest.mark.nightly
def test_threads_of_a_program_get_the_numbers_of_one():
    """With our flags, two XLA programs side by side gave others, for 9 of 200 images."""
    result = run_python(_IN_THREADS)
    assert result.returncode == 0, result.stderr


@needs_mnist
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("flagship", marks=pytest.mark.nightly), "small"])
def test_the_test_loss_is_that_of_the_record(prepared_mnist, name):
    run = RunDirectory.open(ROOT / "models" / name)
    run = run.with_overrides({"data.data_dir": prepared_mnist})
    replica = restore_best(run).replicas[0]
    data = to_batch(datasets.load(**run.config.data).test)
    summary = read_record(run.path / SUMMARY_NAME, Summary)
    [terms] = evaluate_split(replica.settings, replica.params, replica.root_key, data)
    assert terms == pytest.approx(summary.test, abs=1e-3)
    assert replica.epoch == summary.best_epoch
