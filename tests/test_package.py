"""What the package says of itself: requirements, version, what a wheel holds."""

import tomllib

from packaging.requirements import Requirement

from tests.support.common import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def read_requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {str(Requirement(line)) for line in lines if line}


def normalized(requirements):
    return {str(Requirement(requirement)) for requirement in requirements}


def test_the_requirements_are_those_of_the_package_and_its_tests():
    expected = normalized(PROJECT["dependencies"]) | normalized(EXTRAS["test"])
    assert read_requirements(ROOT / "requirements.txt") == expected


def test_the_benchmarks_requirements_are_those_of_the_extra():
    path = ROOT / "benchmarks" / "requirements.txt"
    assert read_requirements(path) == normalized(EXTRAS["benchmarks"])


def test_the_package_pulls_in_neither_tensorflow_nor_pytorch():
    names = {Requirement(each).name for each in PROJECT["dependencies"] + EXTRAS["test"]}
    assert not names & {"tensorflow", "torch", "keras", "clu"}


def test_the_files_a_wheel_must_hold_are_named():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {
        path
        for package, patterns in data["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {
        path
        for path in (ROOT / "vae_jax").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert named == others
