"""The claims of the reference project, judged by the records in `docs/runs`."""

import importlib

import numpy as np
import pytest
import scipy.stats

from tests.support.common import ROOT
from vae_jax import shipped_configs
from vae_jax.reporting import runs


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("reference_claims")


def test_the_results_are_those_of_the_records(claims):
    groups, problems = runs.read_groups(
        ROOT / "docs" / "runs", shipped_configs.get_configs_by_name()
    )
    by_name = {group.name: group for group in groups}
    rows = [*claims.rows_of_claims(by_name), *claims.rows_of_log(by_name["reference"])]
    results = (ROOT / "docs" / "results.md").read_text()
    assert not problems
    assert len(rows) == 17 + 3
    for row in rows:
        assert f"| {' | '.join(row)} |\n" in results
    assert f"| baseline | {by_name['baseline'].mean('test.loss'):.2f} ± 0.16 |" in results


def test_the_standard_error_of_a_difference_is_scipys(claims):
    first, second = [1.0, 2.0, 4.0], [3.0, 5.0]
    excess = claims.excess(first, second, threshold=-0.5)
    statistic = scipy.stats.ttest_ind(first, second).statistic
    assert excess.value == pytest.approx(np.mean(first) - np.mean(second) + 0.5)
    assert (excess.value - 0.5) / excess.error == pytest.approx(statistic)


@pytest.mark.parametrize(
    ("excesses", "answer"),
    [
        ([(1.0, 0.4)], "yes"),
        ([(1.0, 0.6)], "undecided"),
        ([(-1.0, 0.4)], "**no**"),
        ([(1.0, 0.4), (0.1, 1.0)], "undecided"),
        ([(-1.0, 0.4), (0.1, 1.0)], "**no**"),
    ],
)
def test_a_difference_within_two_standard_errors_decides_nothing(claims, excesses, answer):
    assert claims.decide([claims.Excess(*each) for each in excesses], "evidence")[0] == answer
