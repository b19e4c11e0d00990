"""``python -m s2connect``: the command, for where no script is installed."""

import sys

from s2connect.cli import main

if __name__ == "__main__":
    sys.exit(main())
