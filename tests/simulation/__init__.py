"""A seeded simulation: whole nodes and whole clients, on a network, a broker and a clock that are not real.

What runs is what serves in production: uvicorn's HTTP class and the native transport over picows, `AquilaSockets`
with its hub, its history and its claims, and `aquilia.client` over the library `websockets`. What is simulated is
below and beside them: the event loop's time, the wires byte by byte, and the broker that the nodes share. One seed
decides all that happens, so the same seed is the same run, to the byte:

    make simulate ARGS='--seed 4711'

It lies with the tests, not in the package: it has its process for itself, whose time and chance it takes into its own
hands (see `chance`). An application has `aquilia.testing`, which lives beside other code.
"""
