"""`python -m melete` is the `melete` command."""

from melete.cli import main

main()
