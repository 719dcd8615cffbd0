"""`python -m hubinit.cli`."""

from hubinit.cli import main

main()
