"""Seconds from opening the page to its first picture: python benchmarks/app_open.py [--size 256] [--times 5].

Starts a Hub and the app on this machine, with a model of full width and random weights that is cached already, and
opens the page in a headless Chromium as somebody who was never there. Needs chromium, and playwright for Python.

The page carries small copies of its first pictures, which are seen before Gradio's scripts have built it: the first
look. The gallery's own pictures, whole and to be clicked, come after that. A link to other pictures has no first look.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the local Hub speaks plain HTTP only, and this is read at import

from playwright.sync_api import sync_playwright  # noqa: E402

from tests.app_server import CHROMIUM, FLAGS, demo_running  # noqa: E402

FIRST_LOOK, GALLERY = "#first-look img", "#pictures .thumbnail-item img"
ASKED = {  # what is opened, and what is waited for
    "first look": ("", FIRST_LOOK),
    "the gallery's own first picture": ("", GALLERY),
    "the first picture of a link to others": ("?seed=100", GALLERY),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="pixels [256]")
    parser.add_argument("--ngf", type=int, default=64, help="width of the network [64]")
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened [5]")
    options = parser.parse_args()
    took = {what: [] for what in ASKED}
    with demo_running(size=options.size, ngf=options.ngf) as demo, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(options.times):
            for what, (query, selector) in ASKED.items():
                context = browser.new_context()
                page = context.new_page()
                page.set_default_timeout(120_000)
                begin = time.perf_counter()
                page.goto(demo.address + query, wait_until="commit")
                # Looked at in every frame that is painted.
                page.wait_for_function("s => document.querySelector(s)?.naturalWidth", arg=selector)
                took[what].append(time.perf_counter() - begin)
                context.close()
        browser.close()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.size} pixels, ngf {options.ngf}")
    for what, seconds in took.items():
        print(f"{what}: {statistics.median(seconds):.2f} s (median of {len(seconds)}; worst {max(seconds):.2f} s)")


if __name__ == "__main__":
    main()
