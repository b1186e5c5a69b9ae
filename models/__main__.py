"""`python -m models` is `marey-build`."""

from models.cli import main

main(prog_name="marey-build")
