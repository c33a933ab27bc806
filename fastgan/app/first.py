"""What a visitor sees first: the first pictures inside the page itself, before any script of it has run.

Gradio's scripts take about a second to build the page. The pictures that it will begin with are the same for everybody
who asks for nothing else, so they are drawn once, kept, and sent along with the page.
"""

import base64
import html
import io
import weakref
from collections.abc import Callable, Mapping, Sequence

from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastgan.app.models import Found
from fastgan.models import Generator

PSI, SEED, COUNT = 1, 0, 16  # what the page begins with
SIDE = 160  # pixels that the longer side of a picture has at most in the first look
MAX_PIXELS = 2**24  # drawn before the page opens; models whose pictures are larger have no first look

# The same columns as the gallery's. Whoever acts before the gallery is there gets the page without waiting for it.
LOOK = """<div id="first-look" class="{theme}" aria-hidden="true"><style>
#first-look {{ position: fixed; inset: 0; z-index: 1000; overflow: hidden; background: var(--bg); color: var(--col); }}
#first-look > div {{ max-width: 1280px; margin: auto; padding: 24px; font: 500 16px system-ui, sans-serif; }}
#first-look section {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: 8px; }}
#first-look img {{ width: 100%; border-radius: 6px; }}
#first-look.dark {{ background: var(--bg-dark); color: var(--col-dark); }}
@media (prefers-color-scheme: dark) {{
  #first-look:not(.light) {{ background: var(--bg-dark); color: var(--col-dark); }}
}}
</style><div><p>{name}</p><section>{pictures}</section></div></div><script>
(() => {{
  const look = document.getElementById("first-look"), acts = ["pointerdown", "keydown", "wheel"];
  const there = (picture) => picture.complete || picture.getBoundingClientRect().top > innerHeight;
  const end = () => {{
    clearInterval(watch);
    acts.forEach((act) => removeEventListener(act, acted));
    look.remove();
  }};
  const acted = () => document.getElementById("pictures") && end();
  const watch = setInterval(() => {{
    const picture = document.querySelector("#pictures .thumbnail-item img");
    if ((picture && there(picture)) || document.querySelector(".toast-body")) end();
  }}, 30);
  acts.forEach((act) => addEventListener(act, acted));
}})();
</script>"""


class First:
    """The pictures that the page begins with.

    Args:
        model: what the model box says then.
    """

    def __init__(self, model: str = ""):
        self.model = model
        self.gallery: list[tuple[str, str]] = []  # file and caption
        self.files: set[str] = set()  # not to be cleaned up
        self._generator: Callable[[], Generator | None] = lambda: None
        self._name, self._pictures = "", ""

    def keep(self, found: Found, pictures: Sequence[tuple[str, str]]) -> None:
        """Begin with these pictures of the model from now on.

        Args:
            found: the model that drew them.
            pictures: file and caption of each.
        """
        if self.holds(found):
            return
        self.gallery = list(pictures)
        self.files.clear()
        self.files.update(path for path, _ in pictures)
        self._generator = weakref.ref(found.generator)
        self._name = html.escape(found.name)
        self._pictures = "".join(f'<img alt="" src="{small_copy(path)}">' for path, _ in pictures)

    def holds(self, found: Found) -> bool:
        """Whether the pictures are those of the model as it is now; its weights may have been trained further."""
        return self._generator() is found.generator

    def is_asked(self, query: Mapping[str, str]) -> bool:
        """Whether an address asks for these pictures: for this model or none, and for nothing else to be drawn."""
        return query.get("model", self.model) == self.model and not query.keys() & {"tab", "psi", "seed", "count"}

    def look(self, query: Mapping[str, str]) -> str:
        """HTML that shows the pictures until the gallery does; empty where there are none, or others are asked for."""
        if not self._pictures or not self.is_asked(query):
            return ""
        theme = query.get("__theme", "")
        return LOOK.format(theme=theme if theme in ("light", "dark") else "", name=self._name, pictures=self._pictures)


def small_copy(path: str) -> str:
    """A picture as a WebP data URI of a few kilobytes."""
    with Image.open(path) as picture:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(buffer := io.BytesIO(), "WebP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class FirstLook:
    """Middleware that sends the first look along with the page, and the page compressed, which Gradio leaves out."""

    def __init__(self, app: ASGIApp, first: First):
        self.app, self.first = app, first
        self.compressed = GZipMiddleware(self.with_look, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole_page = scope["type"] == "http" and scope["path"] == "/"
        await (self.compressed if whole_page else self.app)(scope, receive, send)

    async def with_look(self, scope: Scope, receive: Receive, send: Send) -> None:
        look = self.first.look(Request(scope).query_params).encode()
        begun: Message = {}

        async def send_with_look(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message
                return
            if begun:
                body = message.get("body", b"")
                if len(longer := body.replace(b"<gradio-app", look + b"<gradio-app", 1)) > len(body):
                    MutableHeaders(scope=begun)["Content-Length"] = str(len(longer))
                    message = {**message, "body": longer}
                await send(begun)
                begun = {}
            await send(message)

        await self.app(scope, receive, send_with_look if look else send)
