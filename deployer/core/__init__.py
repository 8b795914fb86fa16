"""The pure part: values in, values out; touches no file, clock, network or process."""
