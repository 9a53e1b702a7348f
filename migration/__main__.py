"""`python -m migration`."""

from migration.cli import main

main()
