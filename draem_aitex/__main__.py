"""`python -m draem_aitex COMMAND`: see `draem_aitex.cli`."""

import sys

from draem_aitex.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
