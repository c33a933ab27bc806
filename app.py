"""The page in a browser: `python app.py [MODEL]`, the same as `fastgan app [MODEL]`."""

import sys

from fastgan.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
