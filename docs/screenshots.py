"""Pictures of every tab, for the README and for looking at: python docs/screenshots.py RUN [--out FOLDER].

The run is pushed to a Hub on this machine, and the page is used there in a headless Chromium: at desktop width, at
phone width, and dark. Needs chromium, and playwright for Python.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the local Hub speaks plain HTTP only, and this is read at import

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from tests.app_server import CHROMIUM, FLAGS, demo_running  # noqa: E402

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
READY = {  # what has to be true before a tab is worth a picture
    "sample": "document.querySelectorAll('#pictures .thumbnail-item img').length === 16",
    "interpolate": "(document.querySelector('#film video') ?? {}).readyState >= 3",
    "mix": "document.querySelector('#pair img')?.complete",
    "explore": "document.querySelectorAll('#strip .thumbnail-item img').length === 7",
    "about": "document.querySelector('#card')?.innerText",
}
LOADED = "image.complete || image.getBoundingClientRect().top > innerHeight"
SETTINGS = {
    "interpolate": "&keys=1,5,9,12",
    "mix": "&content=0,3,8,11&style=4,6,7,13&one=3&other=6",
    "explore": "&start=5",
}


def shoot(page: Page, address: str, tab: str, out: Path) -> None:
    """Write one picture of a tab that has done what it does."""
    page.goto(f"{address}?tab={tab}{SETTINGS.get(tab, '')}")
    page.wait_for_function(f"() => {READY[tab]}")
    # Pictures far below load when somebody scrolls there.
    page.wait_for_function(f"() => [...document.images].every(image => {LOADED})")
    page.wait_for_timeout(1500)  # until the last picture has been painted
    page.screenshot(path=out)
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a model")
    parser.add_argument("--out", type=Path, default=Path("docs/app"), help="[docs/app]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with demo_running(options.run) as demo, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, viewport, theme in (
            ("desktop", DESKTOP, "light"),
            ("dark", DESKTOP, "dark"),
            ("phone", PHONE, "light"),
            ("phone-dark", PHONE, "dark"),
        ):
            scale = 2 if viewport is PHONE else 1
            context = browser.new_context(viewport=viewport, color_scheme=theme, device_scale_factor=scale)
            context.set_default_timeout(300_000)
            for tab in READY:
                page = context.new_page()
                shoot(page, demo.address, tab, options.out / f"{tab}-{name}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
