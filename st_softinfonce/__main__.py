"""``python -m st_softinfonce``: the command line."""

import sys

from st_softinfonce.cli import main

if __name__ == "__main__":
    sys.exit(main())
