"""Configurations: each file here is `default.py` with a few fields changed."""
