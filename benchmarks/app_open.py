"""Seconds from opening the page to its first picture: python benchmarks/app_open.py [--size 256] [--times 5].

Starts a Hub and the app on this machine, with a model of full width and random weights that is cached already, and
opens the page in a headless Chromium as somebody who was never there. Needs chromium, and playwright for Python.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the local Hub speaks plain HTTP only, and this is read at import

from playwright.sync_api import sync_playwright  # noqa: E402

from tests.app_server import CHROMIUM, FLAGS, app_running, make_model, push  # noqa: E402
from tests.hub_server.server import HubServer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="pixels [256]")
    parser.add_argument("--ngf", type=int, default=64, help="width of the network [64]")
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened [5]")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, HubServer(Path(folder, "hub")) as hub:
        make_model(Path(folder, "model"), options.size, options.ngf)
        repo = push(hub, Path(folder, "model"), "fastgan-open")
        env = hub.env(Path(folder, "cache"), token="")
        with app_running(repo, env=env, log=Path(folder, "log")) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            took = []
            for _ in range(options.times):
                context = browser.new_context()
                page = context.new_page()
                page.set_default_timeout(120_000)
                begin = time.perf_counter()
                page.goto(address, wait_until="commit")
                page.wait_for_function("() => document.querySelector('#pictures .thumbnail-item img')?.naturalWidth")
                took.append(time.perf_counter() - begin)
                context.close()
            browser.close()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.size} pixels, ngf {options.ngf}")
    print(f"first picture after {statistics.median(took):.2f} s (median of {len(took)}; worst {max(took):.2f} s)")


if __name__ == "__main__":
    main()
