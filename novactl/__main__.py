"""python -m novactl."""

from novactl.cli.app import main

main()
