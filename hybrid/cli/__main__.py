"""`python -m hybrid.cli`."""

from hybrid.cli.app import main

main()
