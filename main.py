"""Variational autoencoders in JAX and Flax.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

trains; the same command again resumes. Any field of the configuration can be set:
--config.train.num_epochs=5. A mode other than train may leave --config out: it takes the
configuration that the run directory holds.

  python main.py --mode=reconstruct --workdir=runs/quickstart --input=photos/ --output=out

uses a trained model on images of your own; nothing but --output is written to. --mode=NAME --help
lists a mode's own flags.

  python main.py --mode=experiments --workdir=runs

trains the reference configurations, or those that --configs names, and writes a report of all
runs in that folder; --mode=report writes the report alone.
"""

from vae_jax.__main__ import main

if __name__ == "__main__":
    main()
