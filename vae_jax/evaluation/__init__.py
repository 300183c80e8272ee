"""Uses of a trained model: generation, likelihoods, measures, plots."""
