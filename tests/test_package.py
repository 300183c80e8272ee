"""What the package says of itself: requirements, version, what a wheel holds."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

import vae_jax
from tests.support.common import ROOT
from vae_jax import shipped_configs

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as it is installed, away from the source tree."""
    folder = tmp_path_factory.mktemp("installed")
    for place, path in installed_files().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / place)
    return folder


def run_installed(installed, cwd, *arguments):
    """Runs the installed package's command line elsewhere."""
    return subprocess.run(
        [sys.executable, "-m", "vae_jax", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def read_requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {str(Requirement(line)) for line in lines if line}


def normalized(requirements):
    return {str(Requirement(requirement)) for requirement in requirements}


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


_USE_A_MODEL = """
import sys
for name in {extras}:
    sys.modules[name] = None  # as if it were not installed
import numpy as np, vae_jax
vae = vae_jax.load_run("models/small")
images = np.zeros((2, 28, 28), bool)
vae.encode(images), vae.reconstruct(images), vae.sample(2)
vae.log_likelihood(images, num_samples=2)
"""


@pytest.mark.slow
def test_a_trained_model_needs_no_extra():
    extras = ["tensorflow_datasets", "array_record", "requests", "PIL", "mlxtend", "matplotlib"]
    extras += ["jinja2", "sklearn", "tensorboardX", "flatbuffers", "scipy"]
    code = _USE_A_MODEL.format(extras=extras)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_missing_extra_is_one_line(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from vae_jax.__main__ import main; "
        "sys.argv[1:] = ['--mode=sample', '--workdir=models/small', f'--output={sys.argv[1]}']; "
        "main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: matplotlib is not installed"), result.stderr
    assert result.stderr.count("\n") == 1


def test_the_citation_has_the_version():
    assert f"version: {vae_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_benchmarks_requirements_are_those_of_the_extra():
    path = ROOT / "benchmarks" / "requirements.txt"
    assert read_requirements(path) == normalized(EXTRAS["benchmarks"])


def test_the_package_pulls_in_neither_tensorflow_nor_pytorch():
    names = {Requirement(r).name for r in with_extras([*PROJECT["dependencies"], "vae-jax[dev]"])}
    assert not names & {"tensorflow", "torch", "keras", "clu"}


def test_a_wheel_holds_every_file_of_the_package():
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vae_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected |= {f"vae_jax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").glob("*.py")}
    assert {*installed_files()} == expected


def can_build():
    """Whether the setuptools that is installed is one that pyproject.toml asks for."""
    [requirement] = map(Requirement, PYPROJECT["build-system"]["requires"])
    try:
        return metadata.version(requirement.name) in requirement.specifier
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not can_build(), reason="setuptools is missing or too old")
def test_the_wheel_that_is_built_is_that(tmp_path):
    tree = tmp_path / "tree"  # building leaves files behind
    for name in ("vae_jax", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=tree, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {*installed_files()}


def test_an_installed_package_has_the_configurations(installed, tmp_path):
    names = {Path(place).stem for place in installed_files() if "/configs/" in place}
    assert names == {"__init__", "default", *shipped_configs.get_names()}
    for name in ("baseline", "conditional"):
        result = run_installed(
            installed, tmp_path, f"--config={name}", "--workdir=run", "--config.seed=-1"
        )
        assert result.stderr == "error: seed is -1, must be from 0 to 4294967295\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_installed_package_trains_and_samples(installed, tmp_path, tiny_arguments):
    arguments = ("--config=baseline", *tiny_arguments[1:])
    result = run_installed(installed, tmp_path, "--workdir=run", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "run" / "summary.json").exists()
    result = run_installed(installed, tmp_path, "--workdir=run", "--mode=sample", "--num=4")
    assert (result.returncode, result.stderr) == (0, "")
    assert len([*(tmp_path / "run" / "samples").iterdir()]) == 4
