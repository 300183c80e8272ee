"""Modes of the command line: each declares its flags, as its function takes them."""

import inspect

import pytest

from tests.support.common import ROOT, error_of
from vae_jax import configuration, modes

# How many arguments of a mode's function are not flags, by what the mode works on.
NUM_FIRST = {modes.CONFIG: 2, modes.RUN: 1, modes.FOLDER: 2}


@pytest.mark.parametrize("name", modes.MODES)
def test_a_mode_is_a_module_whose_flags_are_arguments_of_its_function(name):
    assert (ROOT / "vae_jax" / f"{name}.py").exists()
    mode, takes = modes.get_mode(name), modes.MODES[name]
    assert mode.function.__module__ == f"vae_jax.{name}"
    assert mode.function.__doc__
    arguments = {*[*inspect.signature(mode.function).parameters][NUM_FIRST[takes] :]}
    # `run_mode` opens the output.
    assert {*mode.flags} == arguments | ({"output"} if takes == modes.RUN else set())
    for flag in mode.flags:
        assert mode.flags[flag].help
    groups = {path.partition(".")[0] for path in configuration.default_fields()}
    assert {*mode.changes} <= groups


@pytest.mark.parametrize(
    ("name", "arguments", "given"),
    [
        ("sample", ["--num=3", "--output", "out"], {"num": 3, "output": "out"}),
        ("sample", [], {}),
        ("train", ["--nolock_workdir"], {"lock_workdir": False}),
        ("score", ["--num_samples=7", "--input=a"], {"num_samples": 7, "input": "a"}),
    ],
)
def test_flags_that_are_not_given_are_left_to_the_function(name, arguments, given):
    assert modes.get_mode(name).parse(arguments) == given


def test_a_flag_that_is_missing():
    assert "--input is missing" in error_of(modes.get_mode("reconstruct").parse, [])
