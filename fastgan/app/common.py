"""What every tab shares: errors as one sentence, bounds on one request, the page's state in its address."""

import contextlib
import functools
import html
import inspect
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio_client.utils import is_http_url_like
from torch import Tensor

from fastgan.app.first import First
from fastgan.app.models import Found, ModelCache
from fastgan.config import GATE_LEVELS
from fastgan.errors import UserError
from fastgan.sampling import MAX_SEED

log = logging.getLogger("fastgan.app")

MAX_PIXELS = 2**26  # in one answer: 64 pictures of 1024 by 1024
QUICK = {"concurrency_id": "quick", "concurrency_limit": 8}  # answers within seconds, which take turns at drawing
LONG = {"concurrency_id": "long", "concurrency_limit": 2}  # films and projections, which nothing quick waits for
QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # what only the page itself asks for
TURNS = 2  # pictures drawn at the same time
GATES = [str(level) for level in GATE_LEVELS]  # texts, which every client of the API can send
SOON = 300  # ms for which a slider rests before what depends on it is drawn
MAX_LINK_TEXT = 12_000  # characters of one text taken from an address

T = TypeVar("T")


class Pace:
    """Says when something that grows is to be shown again.

    Args:
        seconds: between two looks at it.
        at_once: whether the first look is now.
    """

    def __init__(self, seconds: float, at_once: bool = True):
        self.seconds, self.shown = seconds, -math.inf if at_once else time.monotonic()

    def due(self) -> bool:
        """Whether to show it now."""
        now = time.monotonic()
        if now - self.shown <= self.seconds:
            return False
        self.shown = now
        return True


@dataclass
class Page:
    """What tabs build on: the models, the controls above all tabs, and what the address holds."""

    models: ModelCache
    first: First
    model: gr.Dropdown
    psi: gr.Slider
    link: dict[str, Component] = field(default_factory=dict)
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(TURNS))

    def linked(self, name: str, component: Component) -> Component:
        """The component, whose value the address holds from now on under this name."""
        self.link[name] = component
        return component

    def open(self, model: str, token: gr.OAuthToken | None) -> Found:
        """The model that the box names, as this visitor may see it."""
        return self.models.get(model, token.token if token else None)

    def in_turn(self, drawing: Iterator[T]) -> Iterator[T]:
        """The same pictures, visitors taking turns: whoever asks for many does not hold up who asks for one."""
        while True:
            with self.turns:
                picture = next(drawing, None)
            if picture is None:
                return
            yield picture

    def one_by_one(self, drawing: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pictures [C, H, W] of batches as they are drawn, in turn."""
        for batch in self.in_turn(drawing):
            yield from batch


def show_gallery(label: str, **options: Any) -> gr.Gallery:
    """A gallery of PNGs as wide as its place, without a label of its own; `label` is what screen readers say."""
    shared = {"format": "png", "height": "auto", "object_fit": "contain", "interactive": False, "show_label": False}
    return gr.Gallery(label=label, buttons=["download", "fullscreen"], **shared, **options)


def show_picture(label: str, buttons: Sequence[str] = ("download", "fullscreen"), **options: Any) -> gr.Image:
    """One PNG that the page shows; `label` is also what screen readers say, whether it is shown or not."""
    shared = {"type": "filepath", "format": "png", "interactive": False}
    options = {"alt_text": label, "show_label": False, **options}
    return gr.Image(label=label, buttons=list(buttons), **shared, **options)


def upload_button(label: str, **options: Any) -> gr.UploadButton:
    """A button that takes files from the visitor, and never an address to fetch one from on the visitor's behalf."""
    button = gr.UploadButton(label, **options)
    keep = button.async_move_resource_to_block_cache

    async def keep_files(path: str | None) -> str | None:
        if is_http_url_like(str(path)):
            raise gr.Error("Upload the file itself; this page fetches nothing from elsewhere", print_exception=False)
        return await keep(path)

    button.async_move_resource_to_block_cache = keep_files
    return button


def endpoint(function: Callable) -> Callable:
    """The function with errors that a person can read: one sentence in the page, details in the log alone."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            with _told():
                yield from function(*args, **kwargs)
    else:

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            with _told():
                return function(*args, **kwargs)

    return wrapper


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except UserError as error:
        # The page shows errors as HTML, and they may quote what a visitor typed or a link said.
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
    except Exception:
        log.exception("a request failed")
        raise gr.Error("Something went wrong on this side. Please try again.", print_exception=False) from None


def check_pixels(found: Found, count: int, most: int = MAX_PIXELS, what: str = "pictures") -> None:
    """Raise a UserError when `count` pictures of the model are too much for one answer."""
    config = found.generator.config
    limit = most // (config.height * config.width)
    if count > limit:
        size = f"{config.width}x{config.height}"
        raise UserError(f"{count} {what} of {size} are too many at a time; ask for at most {limit}")


def click_when_there(elem_id: str) -> str:
    """A JavaScript statement that clicks a button as soon as the page shows it."""
    return f"""
        const press = (left) => {{
            const button = document.getElementById({elem_id});
            if (button) button.click(); else if (left) setTimeout(press, 50, left - 1);
        }};
        press(60);"""


def soon(action: str) -> str:
    """JavaScript that calls a function once a slider has come to rest, unless the page is still being filled."""
    return f"""(...values) => {{
        if (!window.fastganDrawn) return;
        clearTimeout(window.fastganSoon);
        window.fastganSoon = setTimeout({action}, {SOON}, ...values);
    }}"""


def press_soon(elem_id: str) -> str:
    """JavaScript that clicks a button once a slider has come to rest, unless the page is still being filled."""
    return soon(f"() => {{{click_when_there(repr(elem_id))}\n}}")


def write_address(link: Mapping[str, Component]) -> str:
    """JavaScript that puts the values of the linked components into the address of the page."""
    defaults = [None if name == "model" else _as_text(c.value) for name, c in link.items()]
    return f"""(...values) => {{
        const names = {json.dumps(list(link))}, defaults = {json.dumps(defaults)};
        const text = (v) => Array.isArray(v) ? v.join(",") : v === true ? "1" : v === false ? "0" : String(v ?? "");
        const query = new URLSearchParams();
        for (const [key, value] of new URLSearchParams(location.search))
            if (key.startsWith("__")) query.set(key, value);
        names.forEach((name, i) => {{
            const value = text(values[i]);
            if (value !== defaults[i] && value !== "") query.set(name, value);
            else if (value === "" && defaults[i]) query.set(name, "");
        }});
        const search = query.toString();
        history.replaceState(history.state, "", search ? "?" + search : location.pathname);
        if (window.parent !== window)
            window.parent.postMessage({{queryString: search, hash: ""}}, "https://huggingface.co");
    }}"""


def read_address(link: Mapping[str, Component], query: Mapping[str, str]) -> dict[str, Any]:
    """Values for linked components from a query; what makes no sense there is left out."""
    values = {}
    for name, component in link.items():
        if name in query:
            with contextlib.suppress(ValueError, OverflowError):
                values[name] = _from_text(component, query[name])
    return values


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # as JavaScript writes it
    return "" if value is None else str(value)


def _from_text(component: Component, text: str) -> Any:
    if len(text) > MAX_LINK_TEXT:
        raise ValueError
    if isinstance(component, gr.Checkbox):
        return text == "1"
    if isinstance(component, gr.CheckboxGroup):
        chosen = text.split(",")
        return [value for _, value in component.choices if str(value) in chosen]
    if isinstance(component, gr.Number):
        number = int(text)
        if not (component.minimum or 0) <= number <= MAX_SEED:
            raise ValueError
        return number
    if isinstance(component, gr.Slider):
        number = int(text) if component.step == 1 else float(text)
        if not math.isfinite(number):
            raise ValueError
        return min(max(number, component.minimum), component.maximum)
    if isinstance(component, gr.Radio):
        return next(value for _, value in [*component.choices, (None, component.value)] if str(value) == text)
    return text
