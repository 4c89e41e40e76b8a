"""`python -m dpu_runtime` is `dpu`."""

import sys

from dpu_runtime.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
