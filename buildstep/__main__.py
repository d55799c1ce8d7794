"""`python -m buildstep`."""

from __future__ import annotations

import sys

from buildstep.cli import main

if __name__ == "__main__":
    sys.exit(main())
