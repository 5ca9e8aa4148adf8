"""`python -m sparsebridge`: the command line."""

from cli.main import main

main()
