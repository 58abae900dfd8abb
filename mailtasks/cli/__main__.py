"""`python -m mailtasks.cli`: the same as the console script `mailtasks`."""

from mailtasks.cli import main

main()
