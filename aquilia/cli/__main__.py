"""`python -m aquilia.cli` is `aq`."""

from __future__ import annotations

from aquilia.cli import main

if __name__ == "__main__":  # the server's child processes import this file too
    main()
