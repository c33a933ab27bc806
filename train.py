# /// script
# requires-python = ">=3.11"
# dependencies = ["fastgan[train]"]
# ///
"""Train FastGAN on your own pictures: accelerate launch train.py --dataset user/pokemon"""

import sys

from fastgan.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
