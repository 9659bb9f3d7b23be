"""What is lost when a process dies, hangs or is stopped: nothing; and how long it takes to go on.

Numbered streams run through the real daemon while real signals reach its processes and its
clients' at seeded random moments. Every reader compares each token with the numbered sequence.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run scenarios; see `run.main`. Client processes import this package, and not all of it."""
    from ringcast.bench.reliability import run

    run.main(arguments)
