"""`python -m ringcast`."""

from ringcast.cli import main

main(prog_name="ringcast")
