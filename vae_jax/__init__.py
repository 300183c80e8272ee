"""Variational autoencoders of MNIST digits in JAX and Flax."""
