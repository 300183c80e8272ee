"""The package as it is installed: its requirements, its files, and other environments."""

import json
import shutil
import tomllib
from pathlib import PurePosixPath

import numpy as np
import pytest
from packaging.requirements import Requirement

import vae_jax
from tests.support.common import ROOT
from tests.support.processes import rows_without_timing, run_python
from vae_jax import evaluate, sample
from vae_jax.runtime.files import read_json
from vae_jax.training.run_directory import RunDirectory

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
EXTRAS = PROJECT["optional-dependencies"]


def source_of(package):
    """The folder of a package in the source tree."""
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def installed_files():
    """The source of every file of an installed package, by its path there."""
    files = {}
    for package in SETUPTOOLS["packages"]:
        for pattern in ("*.py", *SETUPTOOLS["package-data"].get(package, ())):
            for path in source_of(package).glob(pattern):
                place = PurePosixPath(*package.split("."), path.relative_to(source_of(package)))
                files[str(place)] = path
    return files


def read_requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {str(Requirement(line)) for line in lines if line}


def with_extras(requirements):
    """Requirements, in which an extra of this package stands for what it requires."""
    expanded = set()
    for requirement in map(Requirement, requirements):
        if requirement.name == "vae-jax":
            for extra in requirement.extras:
                expanded |= with_extras(EXTRAS[extra])
        else:
            expanded.add(str(requirement))
    return expanded


def test_the_requirements_are_those_of_the_package_its_extras_and_its_tests():
    expected = with_extras([*PROJECT["dependencies"], "vae-jax[all,test]"])
    assert read_requirements(ROOT / "requirements.txt") == expected
    of_benchmarks = read_requirements(ROOT / "benchmarks" / "requirements.txt")
    assert of_benchmarks == with_extras(EXTRAS["benchmarks"])


def test_the_citation_has_the_version():
    assert f"version: {vae_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_file_of_the_package_is_installed():
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vae_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected |= {f"vae_jax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").glob("*.py")}
    assert {*installed_files()} == expected


_USE_A_MODEL = """
import sys
for name in {extras}:
    sys.modules[name] = None  # as if it were not installed
import numpy as np, vae_jax
from vae_jax.__main__ import main
run, output = sys.argv[1:]
vae = vae_jax.load_run(run)
images = np.zeros((2, 8, 8), bool)
vae.encode(images), vae.reconstruct(images), vae.sample(2)
vae.log_likelihood(images, num_samples=2)
sys.argv[1:] = ["--mode=sample", f"--workdir={{run}}", f"--output={{output}}"]
main()
"""


@pytest.mark.slow
def test_a_trained_model_needs_no_extra_and_a_missing_one_is_one_line(tiny_run, tmp_path):
    extras = ["tensorflow_datasets", "array_record", "requests", "PIL", "mlxtend", "matplotlib"]
    extras += ["jinja2", "sklearn", "tensorboardX", "flatbuffers", "scipy"]
    result = run_python(_USE_A_MODEL.format(extras=extras), tiny_run, tmp_path / "out")
    line = "error: PIL is not installed; run pip install 'vae-jax[all]'\n"
    assert (result.returncode, result.stderr) == (1, line)


_ENVIRONMENT = {
    **{"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEFAULT_PRNG_IMPL": "rbg"},
    **{"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"},
    "JAX_TRANSFER_GUARD": "disallow",
    **{"PYTHONIOENCODING": "ascii", "TFDS_DATA_DIR": "nowhere"},
    **{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    **{"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}
# Each command as the command line runs it, one after another in one process.
_RUN = """
import json, sys
from absl import app
from absl.testing import flagsaver
from vae_jax import __main__ as main
app.define_help_flags()
main.escape_what_cannot_be_encoded()
for arguments in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        main._main(main._parse_flags(["main.py", *arguments]))
"""


@pytest.mark.slow
def test_installed_elsewhere_and_whatever_the_environment_the_numbers_are_the_same(
    tmp_path, tiny_arguments, tiny_run
):
    """An installed package, away from the source tree, trains, evaluates and samples."""
    for place, path in installed_files().items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / place)
    workdir, expected = tmp_path / "run", tmp_path / "expected"
    train = ("--config=baseline", *tiny_arguments[1:])
    modes = (train, ("--mode=evaluate",), ("--mode=sample", "--num=4"))
    commands = json.dumps([["--workdir=run", *arguments] for arguments in modes])
    environment = _ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    result = run_python(_RUN, commands, cwd=tmp_path, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    run = RunDirectory.open(tiny_run)
    evaluate.evaluate(run, expected)
    sample.sample(run, expected, num=4)
    assert rows_without_timing(workdir) == rows_without_timing(tiny_run)
    assert read_json(workdir / "evaluation.json") == read_json(expected / "evaluation.json")
    np.testing.assert_array_equal(*(np.load(f / "samples.npy") for f in (workdir, expected)))
    assert len([*(workdir / "samples").iterdir()]) == 4
