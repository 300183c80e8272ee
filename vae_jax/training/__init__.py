"""Training: settings, compiled steps, the trainer, checkpoints, metrics, the run directory."""
