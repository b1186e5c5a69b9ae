"""`python -m service` is `marey`."""

from service.cli import main

main(prog_name="marey")
