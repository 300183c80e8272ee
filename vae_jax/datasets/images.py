"""A user's own images: from a path to three splits."""

# By which images without splits of their own are shuffled, once: part of what the test set is.
SPLIT_SEED = 20_260_321
