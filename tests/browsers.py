"""A real browser, for what people look at."""

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 60_000  # milliseconds; machines that do other things too are slow

# Where everything is to be tested, having no browser is a failure.
needs_browser = pytest.mark.skipif(not CHROMIUM and not os.getenv("CI"), reason="needs chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of a fresh visitor; whatever the browser complains about fails the test."""
    with visitor(browser) as page:
        yield page


class visitor:
    def __init__(self, browser, **options):
        self.browser, self.options, self.complaints = browser, options, []

    def __enter__(self):
        self.context = self.browser.new_context(**self.options)
        self.context.set_default_timeout(PATIENCE)
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def __exit__(self, kind, *rest):
        self.context.close()
        assert kind or not self.complaints, self.complaints
