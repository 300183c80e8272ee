"""Reports of runs whose files are written here: which runs are read, and what stands where."""

import itertools
import re
import shutil
import unittest.mock

import pytest

import vae_jax
from tests.support.common import ROOT
from vae_jax import report
from vae_jax.evaluation import measures
from vae_jax.reporting import analysis, page, runs
from vae_jax.runtime.files import read_json, write_json, write_record
from vae_jax.training.run_directory import RunDirectory

RECORDS = ROOT / "docs" / "runs" / "baseline"
NAMED = {name: vae_jax.get_config(name) for name in ("baseline", "optimized")}


def change(path, update):
    """Changes a JSON file; `update` returns the new content, or None if it changed the old one."""
    record = read_json(path)
    write_json(path, update(record) or record)


def write_run(workdir, name, losses, samples=None, **fields):
    """A run of a named configuration, some fields of which are changed; one model for each loss."""
    config = NAMED[name].copy_and_resolve_references()
    config.train.num_replicas = len(losses)
    config.update_from_flattened_dict(fields)
    folders = RunDirectory(workdir, {}, config).replica_folders
    for folder, loss in zip(folders, losses, strict=True):
        shutil.copytree(RECORDS, folder, ignore=shutil.ignore_patterns("config.json"))
        terms = {"loss": loss, "reconstruction": loss - 24.0, "kl": 24.0}
        summary = {"test": terms, "validation": terms}
        change(folder / "summary.json", lambda record, summary=summary: record | summary)
        change(folder / "analysis.json", lambda record: record["samples"].update(samples or {}))
    for path in RECORDS.glob("*.*"):  # of several replicas, the means
        if not (workdir / path.name).exists():
            shutil.copy(path, workdir)
    change(workdir / "config.json", lambda record: record | {"config": config.to_dict()})


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Returns a function that lists a folder's sections; curves are not drawn."""
    monkeypatch.setattr(page.plots, "overlay_loss_curves", lambda _: b"png")

    def describe():
        groups, problems = runs.read_groups(tmp_path, NAMED)
        return page.describe(groups, problems | analysis.analyze_missing(groups, {}))

    return describe


def table_of(sections, name):
    """The rows of the first table with such a name, by configuration, and then by title."""
    header, *rows = next(section.table for section in sections if name in section.title)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


@pytest.mark.slow
def test_a_report_is_two_files_without_external_links(tmp_path, capsys):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "optimized", "optimized", [102.3])
    write_run(tmp_path / "short", "optimized", [100.6])
    (tmp_path / "short" / "summary.json").unlink()
    report.write_report(tmp_path)
    html, markdown = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    for tag in ("table", "tr", "td", "th", "div", "figure", "h2", "p"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>") > 0
    # The overlaid curves, and two plots of each run.
    assert html.count("<img") == html.count('src="data:image/png;base64,') == 1 + 2 * 2
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", html)
    assert "<td><b>100.60</b></td>" in html and "| **100.60** |" in markdown
    assert "short: 50 of 50 epochs\n" in capsys.readouterr().out


def test_seeds_and_replicas_of_a_configuration_are_one_row_with_a_deviation(tmp_path, describe):
    write_run(tmp_path / "a", "baseline", [100.0, 101.0])
    write_run(tmp_path / "b", "baseline", [102.0], seed=7)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")  # whose seeds count once
    sections = describe()
    row = table_of(sections, "losses")["baseline"]
    assert (row["test -ELBO"], row["reconstruction"]) == ("101.00 ± 1.00", "77.00 ± 1.00")
    assert row["parameters"] == "10,186,108"  # the same of all three
    commands = [row[1] for row in sections[-1].table[1:]]
    assert "--workdir=runs/a --config.train.num_replicas=2" in commands[0]
    assert "--workdir=runs/b --config.seed=7" in commands[1]


def write_evaluation(workdir, best_step):
    likelihood = measures.LikelihoodMeasures(82.125, 1.0, 84.0, 2.0, 1.0, 100, 5000)
    conditional = measures.ConditionalMeasures(0.9, 100, 0.8)
    posterior = {"active_units": 1, "kl_per_dimension": [0.5]}
    evaluation = measures.Evaluation("nats", best_step, posterior, likelihood, conditional)
    write_record(workdir / "evaluation.json", evaluation)


def test_evaluations_are_shown_where_they_are_of_the_best_epoch(tmp_path, describe):
    best_step = read_json(RECORDS / "summary.json")["best_step"]
    for name, step in (("baseline", best_step), ("optimized", 2)):
        write_run(tmp_path / name, name, [100.6])
        write_evaluation(tmp_path / name, step)
    [row] = table_of(describe(), "likelihood").values()
    assert [*row.values()] == ["baseline", "82.12", "1.00", "2.00", "5,000", "1.0"]
    [group, _] = runs.read_groups(tmp_path, NAMED)[0]
    for column in itertools.chain(*page.TABLES.values()):
        assert group.values(column.measure) or "bits" in column.measure, column


DAMAGES = {
    "short": lambda run: (run / "metrics.csv").write_text(
        "".join((run / "metrics.csv").read_text().splitlines(True)[:3])
    ),
    "field": lambda run: change(run / "analysis.json", lambda r: r["samples"].pop("recall")),
    "summary": lambda run: (run / "summary.json").unlink() or (run / "summary.json").mkdir(),
    "analysis": lambda run: (run / "analysis.json").unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_reported(tmp_path, monkeypatch, describe, name):
    failing = unittest.mock.Mock(side_effect=ValueError("one\ntwo"))
    monkeypatch.setattr(analysis, "restore_best", failing)
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "damaged", "baseline", [100.6], seed=1)
    DAMAGES[name](tmp_path / "damaged")
    sections = describe()
    assert table_of(sections, "losses")["baseline"]["test -ELBO"] == "100.60"
    [row] = sections[-1].table[1:]
    assert row[0] == str(tmp_path / "damaged")
    assert row[1] == "not analyzed: ValueError: one" if name == "analysis" else row[1]


def test_runs_that_cannot_be_compared_have_tables_of_their_own(tmp_path, describe):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "optimized", "optimized", [102.3])
    write_run(tmp_path / "binarized", "optimized", [90.0], **{"data.binarization": "dynamic"})
    write_run(tmp_path / "other_data", "baseline", [80.0])
    other_data = {"data_sha256": "a" * 64}
    change(tmp_path / "other_data" / "config.json", lambda record: record | other_data)
    tables = {
        section.title: {row[0]: row[1] for row in section.table[1:]}
        for section in describe()
        if "losses" in section.title
    }
    assert tables == {
        "mnist, bernoulli (data 32c855bb): losses and latents": {
            "baseline": "100.60",
            "optimized": "102.30",
        },
        "mnist, bernoulli (data aaaaaaaa): losses and latents": {"baseline": "80.00"},
        "mnist, binarized, bernoulli (data 32c855bb): losses and latents": {"binarized": "90.00"},
    }
    best = {
        loss: isinstance(loss, page.Best) for table in tables.values() for loss in table.values()
    }
    assert best == {"100.60": True, "102.30": False, "80.00": False, "90.00": False}


def test_the_best_number_of_a_column_is_marked_but_not_the_ceiling(tmp_path, describe):
    write_run(tmp_path / "baseline", "baseline", [100.6], {"recall": 0.6})
    write_run(tmp_path / "weighted", "baseline", [90.0], {"recall": 0.7}, **{"loss.kl_weight": 0.2})
    terms = {"loss": 90.0, "reconstruction": 83.0, "kl": 35.0}  # the loss is not the -ELBO
    change(tmp_path / "weighted" / "summary.json", lambda record: record | {"test": terms})
    sections = describe()
    losses, samples = (table_of(sections, name) for name in ("losses", "samples"))
    assert isinstance(losses["baseline"]["test -ELBO"], page.Best)
    assert losses["weighted"]["test -ELBO"] == "118.00"
    best = [c for row in samples.values() for c in row.values() if isinstance(c, page.Best)]
    assert best == ["0.700"]  # equal numbers are not marked
    assert samples["training images (ceiling)"]["recall"] == "0.863"


def test_names_are_escaped_in_both_pages_and_quoted_in_commands(tmp_path, describe):
    names = ("a|b", "it's $HOME; x", "`*_[z](y)_*`", "two\nlines", "plain_name", "<b>&")
    for size, name in enumerate(names, 1):
        write_run(tmp_path / name, "baseline", [100.0], latent_size=size)
    sections = describe()
    markdown = page.render(sections, is_html=False)
    escaped = (r"a\|b", r"it's \$HOME; x", r"\`\*\_\[z\](y)\_\*\`", "two lines", r"\<b\>&amp;")
    for name in (*escaped, "plain_name"):
        assert f"\n| {name} | 100.00 |" in markdown
    assert r"--workdir='runs/a\|b' --config.latent_size=1" in markdown
    html_text = page.render(sections, is_html=True)
    assert "<th>&lt;b&gt;&amp;</th>" in html_text and "<b>&" not in html_text
