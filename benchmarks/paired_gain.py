"""What each run gains over the first, image by image.

  python benchmarks/paired_gain.py runs/flagship runs/fitted

Of runs that `--mode=evaluate` has measured with as many importance samples on the same images. The
standard error is that of the difference: most of what an image's log p(x) varies by is the image's
own, the same in both.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import print_table
from trained import paired_gain

from vae_jax.evaluation.measures import (
    EVALUATION_NAME,
    LOG_LIKELIHOOD_NAME,
    Evaluation,
    LikelihoodMeasures,
)
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_json, read_record
from vae_jax.training.run_directory import CONFIG_NAME


def read(workdir: Path) -> tuple[LikelihoodMeasures, np.ndarray, dict]:
    """Reads what mode `evaluate` wrote: averages, log p(x) of each image, what the data were."""
    likelihood = read_record(workdir / EVALUATION_NAME, Evaluation).likelihood
    if likelihood is None or not (workdir / LOG_LIKELIHOOD_NAME).exists():
        sys.exit(f"error: {workdir}: has no log p(x) of each image; run --mode=evaluate there")
    values = np.load(workdir / LOG_LIKELIHOOD_NAME)
    if abs(values.mean() + likelihood.negative_log_likelihood) > 1e-6:
        sys.exit(f"error: {workdir}: {LOG_LIKELIHOOD_NAME} is of another evaluation; run it again")
    conditions = {
        "data": read_json(workdir / CONFIG_NAME)["data_sha256"],
        "binarization seed": likelihood.binarization_seed,
        "importance samples": likelihood.num_importance_samples,
    }
    return likelihood, values, conditions


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    runs = parser.parse_args().runs
    rows, reference = [], None
    for workdir in runs:
        try:
            likelihood, values, conditions = read(workdir)
        except UserError as error:
            sys.exit(f"error: {error}")
        reference = reference or (values, conditions)
        for name, value in conditions.items():
            if value != reference[1][name]:
                sys.exit(f"error: {workdir}: other {name} than {runs[0]}: {value}")
        gain, error = paired_gain(reference[0], values)
        rows.append(
            (
                f"`{workdir.name}`",
                f"{likelihood.negative_log_likelihood:.2f} ± {likelihood.standard_error:.2f}",
                "-" if workdir == runs[0] else f"{gain:+.2f} ± {error:.2f}",
            )
        )
    print_table(("", "-log p(x)", "gain over the first"), rows)


if __name__ == "__main__":
    main()
