"""The whole daemon in one thread, on a clock and links of its own: one seed, one history.

What runs is the real code of every process: `broker.process.Process`, `providers.process.Process`
with its `Upstream`s, `Stage`, `client.Client`, the rings and all that lies between. Stand-ins are
only what a process borrows from the system: time, the event loop, ZeroMQ, HTTP, shared memory
(`seams` lists them), and the two short loops that own nothing but waiting, a worker's and the
supervisor's. A seed decides who moves next, what is delayed, and who dies.

    python -m tests.simulation --runs 100000 --jobs 2
    python -m tests.simulation --seed 4711 --runs 1 --trace
    python -m tests.simulation --mutants
"""
