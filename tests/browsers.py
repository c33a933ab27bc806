"""A real browser, for what people look at."""

import os

import pytest
from playwright import sync_api

from tests.app_server import CHROMIUM, FLAGS

PATIENCE = 60_000  # milliseconds; machines that do other things too are slow

# Where everything is to be tested, having no browser is a failure.
needs_browser = pytest.mark.skipif(not CHROMIUM and not os.getenv("CI"), reason="needs chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
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
