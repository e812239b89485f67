"""`python -m service` is `nabla`, without an installation."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
