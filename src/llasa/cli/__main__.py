"""`python -m llasa.cli`, for where the command is not on the path."""

from llasa.cli import main

main()
