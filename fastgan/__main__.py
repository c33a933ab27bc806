"""`python -m fastgan`, the same as `fastgan`; for `accelerate launch -m fastgan train ...` too."""

import sys

from fastgan.cli import main

if __name__ == "__main__":
    sys.exit(main())
