"""The page in a browser: sample, mix, interpolate, explore. Layout and callbacks; the drawing is the library's."""

from fastgan.app.page import build_demo, launch

__all__ = ["build_demo", "launch"]
