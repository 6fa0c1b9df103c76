"""`python -m turnwire` is `turnwire`."""

from .cli import main

main()
