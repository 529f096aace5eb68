"""Files from outside made hostile, and saves that are killed: campaigns over every door. See tests/README.md."""
