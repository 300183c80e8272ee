"""The claims of the reference project, judged by the records in `docs/runs`."""

import importlib

import numpy as np
import pytest
import scipy.stats

from tests.support.common import ROOT
from vae_jax import shipped_configs
from vae_jax.reporting import page, runs


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("reference_claims")


def test_the_results_are_those_of_the_records(claims, monkeypatch):
    configs = shipped_configs.get_configs_by_name()
    groups, problems = runs.read_groups(ROOT / "docs" / "runs", configs)
    by_name = {group.name: group for group in groups}
    rows = [*claims.rows_of_claims(by_name), *claims.rows_of_log(by_name["reference"])]
    results = (ROOT / "docs" / "results.md").read_text()
    assert not problems
    assert len(rows) == 17 + 3
    for row in rows:
        assert f"| {' | '.join(row)} |\n" in results
    monkeypatch.setattr(page.plots, "overlay_loss_curves", lambda _: b"")
    for section in page.describe(groups, {}):
        for row in section.table:
            assert f"| {' | '.join(map(page.markdown, row))} |\n" in results


def test_the_standard_error_of_a_difference_is_scipys(claims):
    first, second = [1.0, 2.0, 4.0], [3.0, 5.0]
    statistic = scipy.stats.ttest_ind(first, second).statistic
    difference = np.mean(first) - np.mean(second)
    assert difference / claims.standard_error(first, second) == pytest.approx(statistic)
