"""What is done with a trained model: generation, likelihoods, measures, plots."""
