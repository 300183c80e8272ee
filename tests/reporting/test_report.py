"""Reports of runs whose files are written here, with numbers that decide the verdicts."""

import copy
import html.parser
import json
import math
import re
import shutil
import unittest.mock
import urllib.parse

import matplotlib.image
import numpy as np
import pytest
import scipy.stats

import vae_jax
from vae_jax import report
from vae_jax.reporting import analysis, claims, page, runs
from vae_jax.reporting.differences import all_of, difference
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import write_json
from vae_jax.training import run_directory
from vae_jax.training.metrics import COLUMNS

NAMED = {
    name: vae_jax.get_config(name)
    for name in ("baseline", "deeper_decoder", "dense_encoder", "optimized", "reference")
}
SAMPLES = {
    "features": "digit classifier",
    "num_samples": 10_000,
    "frechet_distance": 150.0,
    "precision": 0.8,
    "recall": 0.6,
    "density": 0.9,
    "coverage": 0.5,
    "class_fractions": [0.1] * 10,
    "class_kl": 0.02,
    "digits_present": 10,
    "mean_confidence": 0.9,
    "low_confidence_rate": 0.3,
    "blank_fraction": 0.0,
    "copy_fraction": 0.01,
    "nearest_distance_ratio": 1.0,
}


def write_model(folder, loss, latent_size=64, **samples):
    """What one trained model leaves, its plots one pixel each."""
    (folder / "plots").mkdir(parents=True)
    for name in ("reconstructions", "samples", "interpolation", "latent_map"):
        matplotlib.image.imsave(folder / "plots" / f"{name}.png", np.ones((1, 1, 3)))
    terms = {"loss": loss, "reconstruction": loss - 24.0, "kl": 24.0}
    summary = {
        "units": "nats per image",
        "best_epoch": 40,
        "best_step": 22_000,
        "epochs_trained": 50,
        "parameters": 10_000_000,
        "validation": terms,
        "test": terms,
        "training_seconds": 3600.0,
    }
    analysis = {
        "version": 3,
        "best_step": 22_000,
        "latents": {
            "active_units": 20,
            "kl_per_dimension": [1.2] * latent_size,
            "probe_accuracy": 0.93,
        },
        "reconstructions": {
            "mean_squared_error": 0.0085,
            "sharpness": 0.73,
            "classifier_accuracy": 0.97,
        },
        "interpolations": {"max_mean_step_ratio": 1.5, "mean_confidence": 0.95},
        "samples": SAMPLES | samples,
        "ceiling": SAMPLES
        | {"recall": 0.86, "frechet_distance": 1.5, "low_confidence_rate": 0.007},
    }
    write_json(folder / "summary.json", summary)
    write_json(folder / "analysis.json", analysis)
    rows = []
    for epoch in range(1, 51):
        row = dict.fromkeys(COLUMNS, loss + 50.0 / epoch) | {"epoch": epoch, "step": 550 * epoch}
        row |= {f"{split}_kl": 24.0 - 8.0 / epoch for split in ("train", "validation")}
        rows.append(",".join(str(row[column]) for column in COLUMNS))
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")


def write_run(workdir, config, losses, **samples):
    config = copy.deepcopy(config)
    config.train.num_replicas = len(losses)
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"config": config.to_dict(), "versions": {"jax": "0.10.2"}, "device_kind": "cpu"}
    record["image_shape"] = [28, 28, 1]
    write_json(workdir / "config.json", record)
    folders = run_directory.replica_folders(workdir, config.seed, len(losses))
    for folder, loss in zip(folders, losses, strict=True):
        write_model(folder, loss, config.latent_size, **samples)
    if len(losses) > 1:
        summary = json.loads((folders[0] / "summary.json").read_text())
        write_json(workdir / "summary.json", summary | {"seeds": [0, 1]})


def write_report(workdir):
    report.write_report(workdir)
    return (workdir / "report.html").read_text(), (workdir / "report.md").read_text()


class Page(html.parser.HTMLParser):
    """The tags of a page, and whether each that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.references = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_holds_its_plots_and_no_external_link(tmp_path):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    write_run(tmp_path / "optimized", NAMED["optimized"], [102.3])
    html_text, markdown = write_report(tmp_path)
    parsed = Page(html_text)
    assert not parsed.open
    # The overlaid curves, KL by dimension, and four plots of each run.
    assert parsed.tags.count("img") == 2 + 2 * 4
    assert all(
        reference.startswith(("#", "data:image/png;base64,")) for reference in parsed.references
    )
    assert not re.search(r"https?://|@import|url\(", html_text)
    for tag in ("script", "link", "iframe"):
        assert tag not in parsed.tags
    for text in (html_text, markdown):
        assert "102.30" in text
        assert "**100.60**" in text or '<td class="best">100.60</td>' in text
        assert "training images (ceiling)" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".vae_jax_output",
        "baseline",
        "optimized",
        "report.html",
        "report.md",
    ]


def test_a_report_links_to_the_explorers(tmp_path):
    write_run(tmp_path / "what? a name" / "baseline", NAMED["baseline"], [100.0, 101.0])
    write_run(tmp_path / "optimized", NAMED["optimized"], [102.3])
    folder = tmp_path / "what? a name" / "baseline" / "replicas" / "seed_1"
    (folder / "explorer.html").touch()
    html_text, _ = write_report(tmp_path)
    [address] = [each for each in Page(html_text).references if "explorer" in each]
    assert (tmp_path / urllib.parse.unquote(address)).samefile(folder / "explorer.html")
    assert "?" not in address and "baseline, seed 1" in html_text


def test_seeds_and_replicas_of_a_configuration_are_one_row_with_a_deviation(tmp_path):
    other = copy.deepcopy(NAMED["baseline"])
    other.seed = 7
    write_run(tmp_path / "a", NAMED["baseline"], [100.0, 101.0])
    write_run(tmp_path / "b", other, [102.0])
    _, markdown = write_report(tmp_path)
    assert "| baseline | 101.00 ± 1.00 | 77.00 ± 1.00 |" in markdown
    assert "| 10,000,000 |" in markdown  # the same of all three
    assert "(baseline: 3)" in markdown
    assert "--workdir=runs/a --config.train.num_replicas=2" in markdown
    assert "--workdir=runs/b --config.seed=7" in markdown


def test_a_seed_counts_once_however_often_it_is_there(tmp_path, capsys):
    write_run(tmp_path / "a", NAMED["baseline"], [100.0])
    shutil.copytree(tmp_path / "a", tmp_path / "a_backup")
    (tmp_path / "a_backup" / "analysis.json").unlink()  # which is not missed
    write_run(tmp_path / "both", NAMED["baseline"], [100.5, 102.0])  # of seed 0, and of another
    other = copy.deepcopy(NAMED["baseline"])
    other.train.learning_rate = 0.5
    write_run(tmp_path / "other", other, [100.0])
    _, markdown = write_report(tmp_path)
    assert "| baseline | 101.00 ± 1.41 |" in markdown
    assert "(baseline: 2, other: 1)" in markdown
    output = capsys.readouterr().out
    assert "analyzing" not in output
    for folder in ("a_backup", "both/replicas/seed_0"):
        line = f"{tmp_path / folder}: seed 0 counts once: it is in {tmp_path / 'a'} already\n"
        assert line in output
        assert f"- {line}" in markdown


def test_runs_behind_symbolic_links_are_reported_once_each(tmp_path):
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    write_run(folder / "baseline", NAMED["baseline"], [100.0])
    write_run(elsewhere / "deep" / "optimized", NAMED["optimized"], [101.0])
    (elsewhere / "loop").symlink_to(folder, target_is_directory=True)
    (elsewhere / "loop_of_its_own").symlink_to(elsewhere / "loop_of_its_own")
    (folder / "a_link").symlink_to(elsewhere, target_is_directory=True)
    (folder / "a_latest").symlink_to("baseline", target_is_directory=True)
    (folder / "broken").symlink_to("nowhere")
    _, markdown = write_report(folder)
    assert "--workdir=runs/baseline\n" in markdown.replace(" |", "\n")
    assert "--workdir=runs/a_link/deep/optimized" in markdown
    assert "a_latest" not in markdown
    assert "(baseline: 1, optimized: 1)" in markdown


def test_runs_that_differ_in_the_latent_size_are_plotted_against_it(tmp_path):
    for size in (2, 16):
        config = copy.deepcopy(NAMED["baseline"])
        config.latent_size = size
        write_run(tmp_path / f"latent_{size}", config, [160.0 - size])
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.0])
    html_text, markdown = write_report(tmp_path)
    assert "| baseline | 2 | 158.00 |" in markdown
    assert markdown.index("| baseline | 16 | 144.00 |") < markdown.index(
        "| baseline | 64 | 100.00 |"
    )
    assert Page(html_text).tags.count("img") == 3 + 3 * 4
    assert "--config=configs/baseline.py" in markdown
    assert "--config.latent_size=16" in markdown


def test_likelihoods_are_shown_where_they_are_of_the_best_epoch(tmp_path):
    likelihood = {
        "negative_log_likelihood": 82.125,
        "standard_error": 0.25,
        "negative_elbo": 85.5,
        "gap": 3.375,
        "num_importance_samples": 5000,
        "effective_sample_size": 12.5,
        "num_images": 10_000,
        "binarization_seed": 20190601,
    }
    names = ("kl_per_dimension", "aggregate_mean", "aggregate_variance")
    posterior = {name: [0.5] for name in names} | {"active_units": 1}
    for name, step in (("baseline", 22_000), ("optimized", 21_450)):
        write_run(tmp_path / name, NAMED[name], [100.6])
        evaluation = {"best_step": step, "units": "nats per image"}
        evaluation |= {"posterior": posterior, "likelihood": likelihood}
        write_json(tmp_path / name / "evaluation.json", evaluation)
    html_text, markdown = write_report(tmp_path)
    assert "<td>82.12</td>" in html_text
    [row] = [line for line in markdown.splitlines() if "82.12" in line]
    assert row == "| baseline | 82.12 | 0.25 | 85.50 | 3.38 | 5,000 | 12.5 |"


def test_the_reference_run_stands_beside_the_reference_projects_log(tmp_path):
    write_run(tmp_path / "reference", NAMED["reference"], [110.0])
    _, markdown = write_report(tmp_path)
    last_ten = 110.0 + np.mean(50.0 / np.arange(41, 51))
    assert "| the reference project's log | 111.03 | 87.01 | 24.02 |" in markdown
    assert f"| reference | {last_ten:.2f} |" in markdown
    assert f"| difference | {last_ten - 111.03:+.2f} |" in markdown


def test_what_is_not_complete_or_damaged_is_named_and_the_rest_reported(tmp_path, capsys):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    write_run(tmp_path / "short", NAMED["optimized"], [100.6])
    (tmp_path / "short" / "summary.json").unlink()
    write_run(tmp_path / "broken", NAMED["optimized"], [100.6])
    (tmp_path / "broken" / "metrics.csv").write_text("epoch\nthree\n")
    write_run(tmp_path / "not_analyzed", NAMED["optimized"], [100.6])
    (tmp_path / "not_analyzed" / "analysis.json").unlink()
    html_text, markdown = write_report(tmp_path)
    output = capsys.readouterr().out
    for text in (html_text, markdown, output):
        assert "50 of 50 epochs" in text
        assert re.search(r"metrics\.csv: is damaged", text)
        assert "not analyzed: " in text
    assert (
        "| optimized | 100.60 | 76.60 | 24.00 | 100.60 | 40 | 25 | 10,000,000 | - | - |" in markdown
    )


def damage(path, change):
    """Changes what a JSON file holds."""
    record = json.loads(path.read_text())
    write_json(path, change(record) or record)


DAMAGES = {
    "short": lambda run: (run / "metrics.csv").write_text(
        "".join((run / "metrics.csv").read_text().splitlines(True)[:20])
    ),
    "column": lambda run: (run / "metrics.csv").write_text(
        (run / "metrics.csv").read_text().replace("train_kl", "train_lk")
    ),
    "nan": lambda run: (run / "metrics.csv").write_text(
        (run / "metrics.csv").read_text().replace("16.0", "nan")
    ),
    "versions": lambda run: damage(run / "config.json", lambda r: r | {"versions": [1]}),
    "commit": lambda run: damage(run / "config.json", lambda r: r | {"git_commit": 3}),
    "sha256": lambda run: damage(run / "config.json", lambda r: r | {"data_sha256": []}),
    "shape": lambda run: damage(run / "config.json", lambda r: r | {"image_shape": 3}),
    "plot": lambda run: (
        (run / "plots" / "samples.png").unlink() or (run / "plots" / "samples.png").mkdir()
    ),
    "fractions": lambda run: damage(
        run / "analysis.json", lambda r: r["samples"].update(class_fractions=[0.1])
    ),
    "kl": lambda run: damage(
        run / "analysis.json", lambda r: r["latents"].update(kl_per_dimension=[1.0])
    ),
    "summary": lambda run: (run / "summary.json").unlink() or (run / "summary.json").mkdir(),
    "utf8": lambda run: (run / "metrics.csv").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_trouble_of_a_run_is_its_own(tmp_path, capsys, name):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    other = copy.deepcopy(NAMED["baseline"])
    other.seed = 1
    write_run(tmp_path / "damaged", other, [100.6])
    DAMAGES[name](tmp_path / "damaged")
    _, markdown = write_report(tmp_path)
    skipped = tables_below(markdown, "## Skipped runs, wholly or in part")
    assert f"- {tmp_path / 'damaged'}: " in skipped
    assert str(tmp_path / "baseline") not in skipped
    assert "| baseline | 100.60 |" in markdown  # one seed


def test_the_content_of_each_run_is_put_together_once(tmp_path, monkeypatch):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6, 100.8])
    write_run(tmp_path / "optimized", NAMED["optimized"], [102.3])
    write_run(tmp_path / "unreadable", NAMED["dense_encoder"], [101.0])
    DAMAGES["plot"](tmp_path / "unreadable")
    calls = {}
    for module, name in (
        (run_directory, "_read_record"),
        (page, "_provenance_cells"),
        (page, "_gallery"),
        (page, "_comparison"),
    ):
        calls[name] = unittest.mock.Mock(wraps=getattr(module, name))
        monkeypatch.setattr(module, name, calls[name])
    html_text, markdown = write_report(tmp_path)
    # Once for both pages; the comparison is of all runs that can be shown.
    assert {name: mock.call_count for name, mock in calls.items()} == {
        "_read_record": 3,
        "_provenance_cells": 3,
        "_gallery": 3,
        "_comparison": 1,
    }
    assert Page(html_text).tags.count("img") == 2 + 2 * 4
    assert f"- {tmp_path / 'unreadable'}: cannot be shown: " in markdown
    assert "| dense_encoder | 101.00" not in markdown
    for row in ("| baseline | **100.70 ± 0.14** |", "| optimized | 102.30 |"):
        assert row in markdown


def test_an_analysis_that_fails_is_that_runs_own_trouble(tmp_path, monkeypatch):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    write_run(tmp_path / "failing", NAMED["optimized"], [100.6])
    (tmp_path / "failing" / "analysis.json").unlink()
    for error, expected in (
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (OSError(28, "No space left on device", "x.json"), "x.json: No space left on device"),
        (MemoryError(), "MemoryError"),
        (ValueError("one\ntwo"), "ValueError: one"),
    ):
        failing = unittest.mock.Mock(side_effect=error)
        monkeypatch.setattr(analysis, "restore_best", failing)
        _, markdown = write_report(tmp_path)
        assert f"- {tmp_path / 'failing'}: not analyzed: {expected}\n" in markdown
        assert "| optimized | 100.60 |" in markdown


def tables_below(markdown, heading):
    """What stands below a heading, up to the next of its level."""
    level = heading.split(" ", 1)[0]
    rest = markdown.split(f"{heading}\n", 1)[1]
    return re.split(rf"^{level} ", rest, flags=re.MULTILINE)[0]


def test_runs_that_cannot_be_compared_have_tables_of_their_own(tmp_path):
    binarized = copy.deepcopy(NAMED["optimized"])
    binarized.data.binarization = "dynamic"
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    write_run(tmp_path / "optimized", NAMED["optimized"], [102.3])
    write_run(tmp_path / "binarized", binarized, [90.0])
    html_text, markdown = write_report(tmp_path)
    gray = tables_below(markdown, "## mnist, gray pixels")
    assert "| baseline | **100.60** |" in gray  # not beside the binarized 90
    assert "| optimized | 102.30 |" in gray
    assert "| binarized |" not in gray
    alone = tables_below(markdown, "## mnist, binarized pixels")
    assert "| binarized | 90.00 |" in alone  # the only one is not the best
    assert "| baseline |" not in alone
    assert Page(html_text).tags.count("h2") == 2 + 3  # and claims, plots, provenance


def test_runs_of_one_configuration_on_other_data_are_no_seeds_of_it(tmp_path):
    for name, loss in (("a", 100.0), ("b", 110.0)):
        write_run(tmp_path / name, NAMED["baseline"], [loss])
        record = json.loads((tmp_path / name / "config.json").read_text())
        write_json(tmp_path / name / "config.json", record | {"data_sha256": name * 64})
    _, markdown = write_report(tmp_path)
    for name, loss in (("a", "100.00"), ("b", "110.00")):
        heading = f"## mnist, gray pixels, data {name * 8}"
        assert f"| baseline | {loss} |" in tables_below(markdown, heading)


def test_the_best_number_of_a_column_is_marked(tmp_path):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6], recall=0.6, precision=0.8)
    write_run(tmp_path / "optimized", NAMED["optimized"], [102.3], recall=0.7, precision=0.8)
    html_text, markdown = write_report(tmp_path)
    [ours, theirs] = [row for row in markdown.splitlines() if re.match(r"\| \w+ \| 150\.00", row)]
    assert "| 0.800 | 0.600 |" in ours  # alike, so neither is marked
    assert "| 0.800 | **0.700** |" in theirs
    assert '<td class="best">0.700</td>' in html_text
    assert "**0.863**" not in markdown and "**0.860**" not in markdown  # nor the ceiling


def test_losses_of_several_objectives_are_compared_by_the_elbo(tmp_path):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    config = copy.deepcopy(NAMED["baseline"])
    config.loss.kl_weight = 0.2
    write_run(tmp_path / "weighted", config, [90.0])
    path = tmp_path / "weighted" / "summary.json"
    terms = {"loss": 90.0, "reconstruction": 83.0, "kl": 35.0}
    write_json(path, json.loads(path.read_text()) | {"test": terms, "validation": terms})
    _, markdown = write_report(tmp_path)
    [header, _, *rows] = tables_below(markdown, "Losses and latents").strip().splitlines()
    assert header.startswith(
        "| configuration | test negative ELBO | validation negative ELBO | test loss |"
    )
    assert rows[0].startswith("| baseline | **100.60** | **100.60** | 100.60 |")
    assert rows[1].startswith("| weighted | 118.00 | 118.00 | 90.00 | 83.00 | 35.00 |")
    assert "**90.00**" not in markdown
    (tmp_path / "weighted" / "config.json").unlink()
    assert "test negative ELBO" not in write_report(tmp_path)[1]


def test_a_misspelled_measure_is_an_error_and_not_a_gap(tmp_path):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    write_run(tmp_path / "optimized", NAMED["optimized"], [100.6], recal=0.5)
    _, markdown = write_report(tmp_path)
    assert 'can not match "recal" to any data class field' in markdown
    assert "| optimized |" not in markdown.split("## Claims")[0]
    group = groups_of(tmp_path)["baseline"]
    with pytest.raises(AttributeError, match="recal"):
        group.mean(runs.Model.samples, lambda samples: samples.recal)


def test_a_folder_without_a_complete_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no complete run$"):
        write_report(tmp_path)
    write_run(tmp_path / "short", NAMED["optimized"], [100.6])
    (tmp_path / "short" / "summary.json").unlink()
    with pytest.raises(UserError, match=r"holds no complete run \(.*short: 50 of 50 epochs\)"):
        write_report(tmp_path)


def test_names_from_outside_are_escaped(tmp_path):
    config = copy.deepcopy(NAMED["baseline"])
    config.latent_size = 3
    write_run(tmp_path / "<b>&", config, [100.0])
    html_text, _ = write_report(tmp_path)
    assert "&lt;b&gt;&amp;" in html_text
    assert "<b>" not in html_text


def test_names_are_escaped_in_markdown_and_quoted_in_commands(tmp_path):
    config = copy.deepcopy(NAMED["baseline"])
    names = ("a|b", "it's $HOME; x", "`*_[z](y)_*`", "日本", "two\nlines", "plain_name")
    for size, name in enumerate(names, 1):
        config.latent_size = size
        write_run(tmp_path / name, config, [100.0])
    write_run(tmp_path / "un|finished", config, [100.0])
    (tmp_path / "un|finished" / "summary.json").unlink()
    html_text, markdown = write_report(tmp_path)
    assert "<td>" in html_text
    [table] = re.findall(r"^\| configuration \| test loss.*?\n\n", markdown, re.M | re.S)
    rows = [re.split(r" (?<!\\)\| ", line) for line in table.strip().splitlines()]
    assert {len(row) for row in rows if "---" not in row[0]} == {10}
    assert {row[0] for row in rows[2:]} == {
        r"| a\|b",
        r"| it's \$HOME; x",
        r"| \`\*\_\[z\](y)\_\*\`",
        "| 日本",
        r"| two\\nlines",
        "| plain_name",
    }
    assert r"--workdir='runs/a\|b' --config.latent_size=1" in markdown
    assert "--workdir=runs/plain_name --config.latent_size=6" in markdown
    assert r"un\|finished: 50 of 50 epochs" in markdown


def groups_of(tmp_path, **overrides):
    """Groups of named configurations, the samples' measures overridden for each."""
    for name, samples in overrides.items():
        write_run(tmp_path / name, NAMED[name], [samples.pop("loss", 100.0)], **samples)
    complete, _ = runs.read_runs(tmp_path)
    return {group.name: group for group in runs.group_runs(complete, NAMED)}


def verdict_of(quotation, groups):
    (claim,) = (claim for claim in claims.CLAIMS if quotation in claim.quotation)
    return claims.judge(claim, groups)


@pytest.mark.parametrize(
    ("quotation", "samples", "expected"),
    [
        ("were blank", {"blank_fraction": 0.2}, True),
        ("were blank", {"blank_fraction": 0.01}, False),
        ("lacked detail", {"low_confidence_rate": 0.4}, True),
        ("lacked detail", {"low_confidence_rate": 0.05}, False),
    ],
)
def test_a_claim_is_decided_by_its_number(tmp_path, quotation, samples, expected):
    verdict = verdict_of(quotation, groups_of(tmp_path, baseline=samples))
    assert verdict.reproduced is expected
    (fraction,) = samples.values()
    assert f"{fraction:.0%}"[:-1] in verdict.evidence


@pytest.mark.parametrize(
    ("quotation", "samples", "expected"),
    [
        ("repetitive", {"recall": 0.2}, True),
        ("repetitive", {"recall": 0.6, "digits_present": 8}, True),
        ("repetitive", {"recall": 0.6}, False),
        ("slightly higher", {}, False),  # the same KL
        ("became sharper", {}, False),
    ],
)
def test_the_deeper_decoder_is_held_against_the_baseline(tmp_path, quotation, samples, expected):
    groups = groups_of(tmp_path, baseline={}, deeper_decoder=samples)
    assert verdict_of(quotation, groups).reproduced is expected


def test_covered_digits_and_convergence(tmp_path):
    groups = groups_of(tmp_path, baseline={"loss": 100.0}, optimized={"loss": 90.0})
    assert verdict_of("covered digits", groups).reproduced
    verdict = verdict_of("Convergence was faster", groups)
    # 100 + 50 / 50 + 2 nats: 90 + 50 / n gets there in epoch 4, 100 + 50 / n in epoch 17.
    assert verdict.reproduced
    assert "in epoch 4;" in verdict.evidence
    assert "in epoch 17" in verdict.evidence


@pytest.mark.parametrize(
    ("dense", "answer"), [([99.0, 101.2], "undecided"), ([98.9, 99.1], "no"), ([104.0], "yes")]
)
def test_a_difference_within_two_standard_errors_is_undecided(tmp_path, dense, answer):
    losses = {"baseline": [100.0, 100.4], "dense_encoder": dense}
    for name, values in losses.items():
        for seed, loss in enumerate(values):
            config = copy.deepcopy(NAMED[name])
            config.seed = seed
            write_run(tmp_path / f"{name}_{seed}", config, [loss])
    groups = groups_of(tmp_path)
    verdict = verdict_of("LSTM encoder improved", groups)
    assert verdict.answer == answer
    squares = sum(np.var(values) * len(values) for values in losses.values())
    pooled = math.sqrt(squares / len(dense) * (1 / 2 + 1 / len(dense)))
    assert verdict.evidence.endswith(f"standard error of the difference {pooled:.2g}")
    assert f"| {answer if answer != 'no' else '**no**'} |" in write_report(tmp_path)[1]


def test_the_standard_error_of_a_difference_is_scipys():
    first, second = [1.0, 2.0, 4.0], [3.0, 5.0]
    found = difference(first, second)
    statistic = scipy.stats.ttest_ind(first, second).statistic
    assert (found.first - found.second) / found.standard_error == pytest.approx(statistic)
    assert difference([1.0], [3.0]).standard_error is None
    assert difference([1.0], [3.0]).exceeds(-2.5)


def test_what_is_undecided_makes_a_whole_undecided_unless_a_part_is_false():
    assert [all_of(True, None), all_of(False, None), all_of(True, True)] == [None, False, True]


def test_the_curves_of_a_baseline_are_judged(tmp_path):
    groups = groups_of(tmp_path, baseline={})
    # 50 / 20 - 50 / 50 of 50 - 50 / 50 nats.
    verdict = verdict_of("stabilized by epoch 20", groups)
    assert verdict.reproduced
    assert verdict.evidence.startswith("3% of")
    # 16 nats in epoch 1, 20 in epoch 2, 23.84 at last.
    assert not verdict_of("KL divergence increased gradually", groups).reproduced


def test_a_curve_that_is_flat_is_not_judged(tmp_path):
    groups = groups_of(tmp_path, baseline={})
    path = tmp_path / "baseline" / "metrics.csv"
    path.write_text("\n".join([",".join(COLUMNS), *[",".join(["1"] * len(COLUMNS))] * 50]))
    verdict = verdict_of("stabilized by epoch 20", groups_of(tmp_path))
    assert verdict.reproduced is None
    assert verdict.evidence == "baseline's training reconstruction loss has not changed"
    assert verdict_of("stabilized by epoch 20", groups).reproduced


def test_what_could_not_be_measured_is_said_with_its_reason(tmp_path):
    write_run(tmp_path / "baseline", NAMED["baseline"], [100.6])
    path = tmp_path / "baseline" / "analysis.json"
    analysis = json.loads(path.read_text())
    del analysis["samples"]["recall"], analysis["ceiling"]
    analysis["samples"]["not_measured"] = {"recall": "too few images"}
    write_json(path, analysis | {"not_measured": {"ceiling": "no more images"}})
    for text in write_report(tmp_path):
        assert "ceiling is not measured: no more images" in text
        assert "samples.recall is not measured: too few images" in text
    [row] = [line for line in text.splitlines() if line.startswith("| baseline | 150.00")]
    assert row.startswith("| baseline | 150.00 | 0.800 | 0.900 |")  # no column of nothing


def test_what_cannot_be_judged_says_what_it_needs(tmp_path):
    groups = groups_of(tmp_path, baseline={})
    verdict = verdict_of("became sharper", groups)
    assert verdict.reproduced is None
    assert "needs a complete run of deeper_decoder" in verdict.evidence
    path = tmp_path / "baseline" / "analysis.json"
    analysis = json.loads(path.read_text())
    del analysis["samples"]
    write_json(path, analysis)
    groups = groups_of(tmp_path)
    verdict = verdict_of("were blank", groups)
    assert verdict.reproduced is None
    assert verdict.evidence == "not measured of baseline: its samples"


def test_every_claim_is_judged_when_all_configurations_are_there(tmp_path):
    names = {name for claim in claims.CLAIMS for name in claim.needs}
    group = groups_of(tmp_path, baseline={})["baseline"]
    for claim in claims.CLAIMS:
        verdict = claims.judge(claim, dict.fromkeys(names, group))
        assert verdict.reproduced is not None, claim
        assert verdict.evidence
