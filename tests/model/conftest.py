"""Tests of pure functions: compiling takes most of their time."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(quick_compilation):
    """Every module of this folder compiles without optimizations."""
