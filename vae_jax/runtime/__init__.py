"""What a process runs on: devices, compilation, signals, errors, files."""
