"""``python -m scotoma``: the command."""

import sys

from scotoma.cli import main

if __name__ == "__main__":
    sys.exit(main())
