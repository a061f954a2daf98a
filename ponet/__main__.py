"""`python -m ponet`."""

import sys

from ponet.cli import main

if __name__ == "__main__":
    sys.exit(main())
