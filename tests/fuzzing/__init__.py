"""Targets for the fuzzer, `make fuzz`: each takes any bytes, and raises where the code does not keep its word."""
