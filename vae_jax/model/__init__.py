"""The model: arrays in, arrays out; knows no file, no device, no configuration, no data set."""
