"""Reports of runs whose files are written here: which runs are read, and what stands where."""

import copy
import dataclasses
import itertools
import json
import re
import shutil
import unittest.mock
import urllib.parse

import pytest

import vae_jax
from vae_jax import report
from vae_jax.evaluation import measures
from vae_jax.reporting import analysis, page, runs
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_json
from vae_jax.training import run_directory
from vae_jax.training.metrics import COLUMNS

NAMED = {name: vae_jax.get_config(name) for name in ("baseline", "optimized")}
for _config in NAMED.values():
    _config.train.num_epochs = 5


def ones(record_type, **values):
    """A record of ones, some values of which are others."""
    names = [field.name for field in dataclasses.fields(record_type)]
    return {name: 1 for name in names if name != "not_measured"} | values


SAMPLES = ones(measures.SampleMeasures, features="classifier", class_fractions=[0.1], recall=0.6)


def write_model(folder, loss, samples):
    """The files of one trained model."""
    (folder / "plots").mkdir(parents=True)
    for name in ("reconstructions", "samples", "interpolation", "latent_map"):
        (folder / "plots" / f"{name}.png").write_bytes(b"png")
    terms = {"loss": loss, "reconstruction": loss - 24.0, "kl": 24.0}
    summary = ones(measures.Summary, units="nats", epochs_trained=5, validation=terms, test=terms)
    summary |= {"parameters": 10_000_000, "seeds": None, "validation_std": None, "test_std": None}
    analysis = {
        "version": measures.ANALYSIS_VERSION,
        "best_step": 1,
        "latents": ones(measures.LatentMeasures, kl_per_dimension=[1.2, 0.0]),
        "reconstructions": ones(measures.ReconstructionMeasures),
        "interpolations": ones(measures.InterpolationMeasures),
        "samples": SAMPLES | samples,
        "ceiling": SAMPLES | {"recall": 0.86},
    }
    write_json(folder / "summary.json", summary)
    write_json(folder / "analysis.json", analysis)
    rows = [dict.fromkeys(COLUMNS, loss + 10.0 / epoch) for epoch in range(1, 6)]
    lines = [",".join(str(row[column]) for column in COLUMNS) for row in rows]
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")


def write_run(workdir, name, losses, samples=None, **fields):
    """A run of a named configuration, some fields of which are changed; one model for each loss."""
    config = copy.deepcopy(NAMED[name])
    config.train.num_replicas = len(losses)
    config.update_from_flattened_dict(fields)
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"config": config.to_dict(), "versions": {"jax": "0.10.2"}, "device_kind": "cpu"}
    write_json(workdir / "config.json", record | {"image_shape": [28, 28, 1]})
    folders = run_directory.replica_folders(workdir, config.seed, len(losses))
    for folder, loss in zip(folders, losses, strict=True):
        write_model(folder, loss, samples or {})
    if len(losses) > 1:
        shutil.copy(folders[0] / "summary.json", workdir)
        shutil.copy(folders[0] / "metrics.csv", workdir)


def change(path, update):
    """Changes a JSON file; `update` returns the new content, or None if it changed the old one."""
    record = json.loads(path.read_text())
    write_json(path, update(record) or record)


def describe(workdir):
    """The groups and the sections, their curves not drawn."""
    groups, problems = runs.read_groups(workdir, NAMED)
    problems |= analysis.analyze_missing(groups, {})
    not_drawn = unittest.mock.Mock(return_value=b"")
    with unittest.mock.patch.multiple(
        page.plots, overlay_loss_curves=not_drawn, plot_kl_per_dimension=not_drawn
    ):
        return groups, page.describe(groups, problems, workdir)


def sections_of(workdir):
    return {section.title: section for section in describe(workdir)[1]}


def columns_of(section):
    """A table's cells by row and title."""
    header, *rows = section.table
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def losses_of(workdir):
    return columns_of(sections_of(workdir)["Losses and latents"])


@pytest.mark.slow
def test_a_report_is_two_files_without_external_links(tmp_path, capsys):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "optimized", "optimized", [102.3])
    write_run(tmp_path / "short", "optimized", [102.3])
    (tmp_path / "short" / "summary.json").unlink()
    report.write_report(tmp_path)
    html, markdown = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    for tag in ("table", "tr", "td", "th", "div", "figure", "h2", "h3", "p"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>") > 0
    # The overlaid curves, KL by dimension, and four plots of each run.
    assert html.count("<img") == html.count('src="data:image/png;base64,') == 2 + 2 * 4
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", html)
    assert "<td><b>100.60</b></td>" in html and "| **100.60** |" in markdown
    assert "short: 5 of 5 epochs\n" in capsys.readouterr().out


def test_a_report_links_to_the_explorers(tmp_path):
    write_run(tmp_path / "what? a name" / "baseline", "baseline", [100.0, 101.0])
    folder = tmp_path / "what? a name" / "baseline" / "replicas" / "seed_1"
    (folder / "explorer.html").touch()
    [(text, address)] = sections_of(tmp_path)["baseline"].links.items()
    assert (tmp_path / urllib.parse.unquote(address)).samefile(folder / "explorer.html")
    assert "?" not in address and "baseline, seed 1" in text


def test_seeds_and_replicas_of_a_configuration_are_one_row_with_a_deviation(tmp_path):
    write_run(tmp_path / "a", "baseline", [100.0, 101.0])
    write_run(tmp_path / "b", "baseline", [102.0], seed=7)
    row = losses_of(tmp_path)["baseline"]
    assert (row["test loss"], row["reconstruction"]) == ("101.00 ± 1.00", "77.00 ± 1.00")
    assert row["parameters"] == "10,000,000"  # the same of all three
    commands = [row[1] for row in sections_of(tmp_path)["Provenance"].table[1:]]
    assert "--workdir=runs/a --config.train.num_replicas=2" in commands[0]
    assert "--workdir=runs/b --config.seed=7" in commands[1]


def test_a_seed_counts_once_however_often_it_is_there(tmp_path, capsys):
    write_run(tmp_path / "a", "baseline", [100.0])
    shutil.copytree(tmp_path / "a", tmp_path / "a_backup")
    (tmp_path / "a_backup" / "analysis.json").unlink()  # which is not missed
    write_run(tmp_path / "both", "baseline", [100.5, 102.0])  # of seed 0, and of another
    write_run(tmp_path / "other", "baseline", [100.0], **{"train.learning_rate": 0.5})
    groups, problems = runs.read_groups(tmp_path, NAMED)
    assert {group.name: len(group.models) for group in groups} == {"baseline": 2, "other": 1}
    assert groups[0].values("test.loss") == [100.0, 102.0]
    assert problems.keys() == {tmp_path / "a_backup", tmp_path / "both" / "replicas" / "seed_0"}
    analysis.analyze_missing(groups, {})
    assert "analyzing" not in capsys.readouterr().out


def test_runs_behind_symbolic_links_are_reported_once_each(tmp_path):
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    write_run(folder / "baseline", "baseline", [100.0])
    write_run(elsewhere / "deep" / "optimized", "optimized", [101.0])
    (elsewhere / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "a_link").symlink_to(elsewhere, target_is_directory=True)
    (folder / "a_latest").symlink_to("baseline", target_is_directory=True)
    (folder / "broken").symlink_to("nowhere")
    groups, problems = runs.read_groups(folder, NAMED)
    names = [run.name for group in groups for run in group.runs]
    assert names == ["baseline", "a_link/deep/optimized"] and not problems


def test_runs_that_differ_in_the_latent_size_are_plotted_against_it(tmp_path):
    for size in (16, 2):
        write_run(tmp_path / f"latent_{size}", "baseline", [160.0 - size], latent_size=size)
    write_run(tmp_path / "baseline", "baseline", [100.0])
    section = sections_of(tmp_path)["Latent size"]
    sizes_and_losses = [row[1:3] for row in section.table[1:]]
    assert sizes_and_losses == [["2", "158.00"], ["16", "144.00"], ["64", "100.00"]]
    assert len(section.pictures) == 1


def write_evaluation(workdir, best_step):
    names = ("kl_per_dimension", "aggregate_mean", "aggregate_variance")
    posterior = {name: [0.5] for name in names} | {"active_units": 1}
    evaluation = {"best_step": best_step, "units": "nats per image", "posterior": posterior}
    values = {"negative_log_likelihood": 82.125, "num_importance_samples": 5000}
    evaluation["likelihood"] = ones(measures.LikelihoodMeasures, **values)
    accuracies = [0.95] * 9 + [0.45]
    evaluation["conditional"] = ones(measures.ConditionalMeasures, sample_accuracies=accuracies)
    write_json(workdir / "evaluation.json", evaluation)


def test_evaluations_are_shown_where_they_are_of_the_best_epoch(tmp_path):
    for name, step in (("baseline", 1), ("optimized", 2)):
        write_run(tmp_path / name, name, [100.6])
        write_evaluation(tmp_path / name, step)
    sections = sections_of(tmp_path)
    [row] = sections["Likelihood"].table[1:]
    assert row == ["baseline", "82.12", "1.000", "1.00", "1.00", "1.00", "5,000", "1.0"]
    [row] = sections["Conditional models"].table[1:]
    assert row == ["baseline", "100.0%", "45.0%", "100.00%", "1"]


def test_every_column_is_of_a_measure(tmp_path):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_evaluation(tmp_path / "baseline", 1)
    [group] = runs.read_groups(tmp_path, NAMED)[0]
    tables = [value for name, value in vars(page).items() if name.endswith("_COLUMNS")]
    assert len(tables) == 6
    for column in itertools.chain(*tables):
        assert group.values(column.measure), column


DAMAGES = {
    "short": lambda run: (run / "metrics.csv").write_text(
        "".join((run / "metrics.csv").read_text().splitlines(True)[:3])
    ),
    "nan": lambda run: (run / "metrics.csv").write_text(
        (run / "metrics.csv").read_text().replace("110.6", "nan")
    ),
    "versions": lambda run: change(run / "config.json", lambda r: r | {"versions": [1]}),
    "field": lambda run: change(run / "analysis.json", lambda r: r["samples"].update(recal=1)),
    "summary": lambda run: (run / "summary.json").unlink() or (run / "summary.json").mkdir(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_reported(tmp_path, name):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "damaged", "baseline", [100.6], seed=1)
    DAMAGES[name](tmp_path / "damaged")
    sections = sections_of(tmp_path)
    assert columns_of(sections["Losses and latents"])["baseline"]["test loss"] == "100.60"
    [row] = sections["Skipped runs, completely or in part"].table[1:]
    assert row[0] == str(tmp_path / "damaged") and row[1]


def test_a_run_whose_analysis_fails_has_its_losses(tmp_path, monkeypatch):
    write_run(tmp_path / "failing", "optimized", [100.6])
    (tmp_path / "failing" / "analysis.json").unlink()
    failing = unittest.mock.Mock(side_effect=ValueError("one\ntwo"))
    monkeypatch.setattr(analysis, "restore_best", failing)
    sections = sections_of(tmp_path)
    assert columns_of(sections["Losses and latents"])["optimized"]["test loss"] == "100.60"
    [row] = sections["Skipped runs, completely or in part"].table[1:]
    assert row[1] == "not analyzed: ValueError: one"


def test_runs_that_cannot_be_compared_have_tables_of_their_own(tmp_path):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "optimized", "optimized", [102.3])
    write_run(tmp_path / "binarized", "optimized", [90.0], **{"data.binarization": "dynamic"})
    write_run(tmp_path / "other_data", "baseline", [80.0])
    other_data = {"data_sha256": "a" * 64}
    change(tmp_path / "other_data" / "config.json", lambda record: record | other_data)
    tables, title = {}, None
    for section in describe(tmp_path)[1]:
        title = section.title if section.level == 2 else title
        if section.title == "Losses and latents":
            tables[title] = {row[0]: row[1] for row in section.table[1:]}
    assert tables == {
        "mnist, gray pixels, data unknown": {"baseline": "100.60", "optimized": "102.30"},
        "mnist, gray pixels, data aaaaaaaa": {"baseline": "80.00"},
        "mnist, binarized pixels": {"binarized": "90.00"},
    }
    best = {
        loss: isinstance(loss, page.Best) for table in tables.values() for loss in table.values()
    }
    assert best == {"100.60": True, "102.30": False, "80.00": False, "90.00": False}


def test_the_best_number_of_a_column_is_marked_but_not_the_ceiling(tmp_path):
    write_run(tmp_path / "baseline", "baseline", [100.6], {"recall": 0.6})
    write_run(tmp_path / "optimized", "optimized", [102.3], {"recall": 0.7})
    section = sections_of(tmp_path)["Samples, in features of the classifier"]
    best = [[cell for cell in row if isinstance(cell, page.Best)] for row in section.table[1:]]
    assert best == [[], [], ["0.700"]]  # equal numbers are not marked
    assert columns_of(section)["training images (ceiling)"]["recall"] == "0.860"


def test_losses_of_several_objectives_are_compared_by_the_elbo(tmp_path):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    write_run(tmp_path / "weighted", "baseline", [90.0], **{"loss.kl_weight": 0.2})
    terms = {"loss": 90.0, "reconstruction": 83.0, "kl": 35.0}
    path = tmp_path / "weighted" / "summary.json"
    change(path, lambda record: record | {"test": terms, "validation": terms})
    rows = losses_of(tmp_path)
    assert isinstance(rows["baseline"]["test negative ELBO"], page.Best)
    assert rows["weighted"]["test negative ELBO"] == "118.00"
    assert not isinstance(rows["weighted"]["test loss"], page.Best)
    (tmp_path / "weighted" / "config.json").unlink()
    assert "test negative ELBO" not in losses_of(tmp_path)["baseline"]


def test_a_folder_without_a_complete_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no complete run"):
        report.write_report(tmp_path)
    write_run(tmp_path / "short", "optimized", [100.6])
    (tmp_path / "short" / "summary.json").unlink()
    with pytest.raises(UserError, match=r"no complete run \(.*short: 5 of 5 epochs\)"):
        report.write_report(tmp_path)


def test_names_are_escaped_in_both_pages_and_quoted_in_commands(tmp_path):
    names = ("a|b", "it's $HOME; x", "`*_[z](y)_*`", "日本", "two\nlines", "plain_name", "<b>&")
    for size, name in enumerate(names, 1):
        write_run(tmp_path / name, "baseline", [100.0], latent_size=size)
    groups, sections = describe(tmp_path)
    markdown = page.render(groups, sections, is_html=False)
    [table] = re.findall(r"^\| configuration \| test loss.*?\n\n", markdown, re.M | re.S)
    rows = [re.split(r" (?<!\\)\| ", line) for line in table.strip().splitlines()]
    assert {row[0] for row in rows[2:]} == {
        r"| a\|b",
        r"| it's \$HOME; x",
        r"| \`\*\_\[z\](y)\_\*\`",
        "| 日本",
        r"| two\\nlines",
        "| plain_name",
        r"| \<b\>&amp;",
    }
    assert r"--workdir='runs/a\|b' --config.latent_size=1" in markdown
    html_text = page.render(groups, sections, is_html=True)
    assert "<th>&lt;b&gt;&amp;</th>" in html_text and "<b>&" not in html_text


def test_missing_measures_have_no_column_and_a_reason(tmp_path):
    write_run(tmp_path / "baseline", "baseline", [100.6])
    path = tmp_path / "baseline" / "analysis.json"

    def update(record):
        del record["samples"]["recall"], record["ceiling"]
        record["samples"]["not_measured"] = {"recall": "too few images"}
        return record | {"not_measured": {"ceiling": "no more images"}}

    change(path, update)
    sections = sections_of(tmp_path)
    [row] = sections["Skipped runs, completely or in part"].table[1:]
    assert "ceiling is not measured: no more images" in row[1]
    assert "samples.recall is not measured: too few images" in row[1]
    section = sections["Samples, in features of the classifier"]
    assert "recall" not in section.table[0]
    assert [row[0] for row in section.table[1:]] == ["baseline"]
