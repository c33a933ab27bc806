"""Pictures of every tab, for looking at, and one of some for the README: python docs/screenshots.py RUN.

The run is pushed to a Hub on this machine with `fastgan push`, which writes its card, and the page is used there in a
headless Chromium: at desktop width, at phone width, and dark. Needs chromium, and playwright for Python.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the local Hub speaks plain HTTP only, and this is read at import

from PIL import Image, ImageOps  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from tests.app_server import demo_running  # noqa: E402
from tests.browsers import CHROMIUM, FLAGS  # noqa: E402

DESKTOP, PHONE = {"width": 1280, "height": 1040}, {"width": 390, "height": 844}
READY = {  # what has to be true before a tab is worth a picture
    "sample": "document.querySelectorAll('#pictures .thumbnail-item img').length === 24",
    "interpolate": "(document.querySelector('#film video') ?? {}).readyState >= 3",
    "mix": "document.querySelector('#pair img')?.complete",
    "explore": "document.querySelectorAll('#strip .thumbnail-item img').length === 7",
    "about": "document.querySelector('#card')?.innerText",
}
LOADED = "image.complete || image.getBoundingClientRect().top > innerHeight"
SETTINGS = {
    "sample": "&count=24",
    "interpolate": "&keys=1,5,9,12",
    "mix": "&content=0,3,8,11&style=4,6,7,13&one=3&other=6",
    "explore": "&start=5",
}
JOINED = ("sample-desktop", "mix-desktop", "interpolate-dark", "explore-desktop"), "sample-phone-dark"
SIDE, GAP = 800, 16  # pixels: the width of a desktop in the joined picture, and what is between two


def shoot(page: Page, address: str, tab: str, out: Path) -> None:
    """Write one picture of a tab that has done what it does."""
    page.goto(f"{address}?tab={tab}{SETTINGS.get(tab, '')}")
    page.wait_for_function(f"() => {READY[tab]}")
    # Pictures far below load when somebody scrolls there.
    page.wait_for_function(f"() => [...document.images].every(image => {LOADED})")
    page.wait_for_timeout(1500)  # until the last picture has been painted
    page.screenshot(path=out)
    print(out)


def join(folder: Path, out: Path) -> None:
    """Write one picture of four desktops and a phone, as tall as two of them."""
    desktops, phone = JOINED
    shots = [Image.open(folder / f"{name}.png").convert("RGB") for name in desktops]
    height = round(SIDE * shots[0].height / shots[0].width)
    last = ImageOps.contain(Image.open(folder / f"{phone}.png").convert("RGB"), (SIDE, 2 * height + GAP))
    sheet = Image.new("RGB", (2 * (SIDE + GAP) + last.width, 2 * height + GAP), (203, 213, 225))
    for place, shot in enumerate(shots):
        row, column = divmod(place, 2)
        small = shot.resize((SIDE, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (column * (SIDE + GAP), row * (height + GAP)))
    sheet.paste(last, (2 * (SIDE + GAP), 0))
    sheet.save(out, quality=85)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, default=Path("runs/screenshots"), help="every tab [runs/screenshots]")
    parser.add_argument("--joined", type=Path, default=Path("docs/images/app.webp"), help="[docs/images/app.webp]")
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
    join(options.out, options.joined)


if __name__ == "__main__":
    main()
