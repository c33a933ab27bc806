"""The Style mix tab: contents down, styles across, every cell their mix; and one pair with a live slider."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import gradio as gr
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastgan.app.common import GATES, QUICK, Pace, Page, check_pixels, endpoint, press_soon, show_picture
from fastgan.app.keys import read_keys
from fastgan.app.pictures import name_of, serve_png
from fastgan.app.project import projection_panel
from fastgan.sampling import draw, mix_grid, to_pil

MOST = 8  # contents, and styles
CELL = 256  # pixels that the longer side of a cell has at most
HEAD = 1 / 36  # height of a line of text, as a share of the sheet's width
LOOK = 0.7  # seconds between looks at a sheet that is still growing


class MixTab(NamedTuple):
    """What the page wires to other tabs."""

    content: gr.Textbox
    style: gr.Textbox


def mix_tab(page: Page) -> MixTab:
    """Build the tab inside the current one."""

    @endpoint
    def mix(
        model: str,
        psi: float,
        content: str,
        style: str,
        gates: list[str],
        strength: float,
        token: gr.OAuthToken | None = None,
    ) -> Iterator[str]:
        """Draw the paper's grid: contents down, styles across, every cell the mix of the two.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            content: seeds that give shape and layout, like 0-3 or 5,9, at most 8.
            style: seeds that drive the gates, at most 8.
            gates: which skip-layer gates take the style, of 64, 128, 256 and 512; those a model lacks do nothing.
            strength: 0 keeps the content's own gates, 1 takes the style's.

        Returns:
            One PNG: the styles' own pictures on top, the contents' on the left, the mixes between them.
        """
        found = page.open(model, token)
        generator = found.generator
        down = read_keys(generator, content, psi, "Content", MOST)
        across = read_keys(generator, style, psi, "Style", MOST)
        check_pixels(found, len(down.z) * len(across.z))
        sheet = Sheet(generator.config, down.labels, across.labels)
        for column, image in enumerate(page.one_by_one(draw(generator, across.z, across.noise))):
            sheet.put(0, column + 1, image)
        for row, image in enumerate(page.one_by_one(draw(generator, down.z, down.noise))):
            sheet.put(row + 1, 0, image)
        name, pace = name_of(found, "mix"), Pace(LOOK, at_once=False)
        facts = {"seed": content, "style": style, "gates": gates, "strength": strength, "psi": psi}
        taken = {int(gate): strength for gate in gates}
        mixes = page.one_by_one(mix_grid(generator, down.z, down.noise, across.z, taken))
        for cell, image in enumerate(mixes):
            row, column = divmod(cell, len(across.z))
            sheet.put(row + 1, column + 1, image)
            if pace.due():
                yield serve_png(sheet.image, found, name, **facts)
        yield serve_png(sheet.image, found, name, **facts)

    @endpoint
    def mix_pair(
        model: str,
        psi: float,
        content: str,
        style: str,
        gates: list[str],
        strength: float,
        token: gr.OAuthToken | None = None,
    ) -> str:
        """Draw one mix of a content and a style at full size.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            content: the seed that gives shape and layout.
            style: the seed that drives the gates.
            gates: which skip-layer gates take the style, of 64, 128, 256 and 512; those a model lacks do nothing.
            strength: 0 keeps the content's own gates, 1 takes the style's.

        Returns:
            A PNG.
        """
        found = page.open(model, token)
        down = read_keys(found.generator, content, psi, "Content of the pair", 1)
        across = read_keys(found.generator, style, psi, "Style of the pair", 1)
        taken = {int(gate): strength for gate in gates}
        [image] = page.in_turn(mix_grid(found.generator, down.z, down.noise, across.z, taken))
        facts = {"seed": content, "style": style, "gates": gates, "strength": strength, "psi": psi}
        return serve_png(to_pil(image[0]), found, name_of(found, "mix", *down.labels, *across.labels), **facts)

    with gr.Row():
        content = page.linked("content", gr.Textbox("0-3", label="Contents, down", min_width=140, max_lines=1))
        style = page.linked("style", gr.Textbox("4-7", label="Styles, across", min_width=140, max_lines=1))
        gates = page.linked(
            "gates",
            gr.CheckboxGroup(GATES, value=GATES, label="Gates that take the style", min_width=310, scale=2),
        )
        much = gr.Slider(0, 1, 1, step=0.05, label="Strength", min_width=220)
        strength = page.linked("strength", much)
        run = gr.Button("Mix", variant="primary", elem_id="draw-mix", min_width=100)
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Styles on top, contents on the left. Click a cell to look at that pair.")
            sheet = show_picture("Mixing grid: styles on top, contents on the left", elem_id="mixes")
        with gr.Column(min_width=280):
            gr.Markdown("One pair, from content to style.")
            with gr.Row():
                one = page.linked("one", gr.Textbox("0", label="Content", min_width=80, max_lines=1))
                other = page.linked("other", gr.Textbox("4", label="Style", min_width=80, max_lines=1))
                amount = gr.Slider(0, 1, 0.5, step=0.02, label="Strength", min_width=140, scale=2, elem_id="amount")
                slider = page.linked("amount", amount)
            pair = show_picture("The content with the style", elem_id="pair", elem_classes="shown")

    mixing = {
        "fn": mix,
        "inputs": [page.model, page.psi, content, style, gates, strength],
        "outputs": sheet,
        "show_progress": "minimal",
        "trigger_mode": "always_last",
        **QUICK,
    }
    changes = [run.click, content.submit, style.submit, gates.input]
    strength.change(None, js=press_soon("draw-mix"), api_visibility="private")
    drawn = gr.on(changes, api_name="mix", **mixing)
    pairs = [page.model, page.psi, one, other, gates, slider]
    gr.on(
        [slider.input, one.submit, other.submit],
        mix_pair,
        pairs,
        pair,
        api_name="mix_pair",
        show_progress="hidden",
        trigger_mode="always_last",
        **QUICK,
    )
    again = {"fn": mix_pair, "inputs": pairs, "outputs": pair, "show_progress": "hidden", "api_visibility": "private"}
    drawn.success(**again, **QUICK)

    @endpoint
    def pick(
        model: str, psi: float, content: str, style: str, event: gr.SelectData, token: gr.OAuthToken | None = None
    ):
        found = page.open(model, token)
        down = typed(content, read_keys(found.generator, content, psi, "Content", MOST).labels)
        across = typed(style, read_keys(found.generator, style, psi, "Style", MOST).labels)
        row, column = Sheet(found.generator.config, down, across).cell_at(*event.index)
        return down[max(0, row)], across[max(0, column)]

    sheet.select(
        pick,
        [page.model, page.psi, content, style],
        [one, other],
        show_progress="hidden",
        api_visibility="private",
        **QUICK,
    ).success(**again, **QUICK)
    with gr.Accordion("A picture of your own", open=False):
        projection_panel(page, content, style, {**mixing, "api_visibility": "private"})
    return MixTab(content, style)


def typed(text: str, labels: Sequence[str]) -> list[str]:
    """What to type for each key of a text: its seed, or its whole code."""
    codes = iter(part.strip() for part in text.split(",") if not part.strip()[:1].isdecimal())
    return [label if label.isdecimal() else next(codes) for label in labels]


class Sheet:
    """A picture of all mixes, with the styles' and contents' own pictures and names along its edges.

    Args:
        config: of the model, for the shape of a cell.
        down, across: what stands beside the rows and above the columns.
    """

    def __init__(self, config, down: Sequence[str], across: Sequence[str]):
        shrink = max(1, max(config.width, config.height) // CELL)
        self._cell = (config.width // shrink, config.height // shrink)
        self._shape = (len(down), len(across))
        width, height = ((count + 1) * (side + 2) for count, side in zip(self._shape[::-1], self._cell, strict=True))
        self._head = head = max(18, round(width * HEAD))
        self.image = Image.new("RGBA" if config.channels == 4 else "RGB", (width + head, height + head), "white")
        pen, font = ImageDraw.Draw(self.image), ImageFont.load_default(head * 2 // 3)
        for column, label in enumerate(across):
            x, _ = self._corner(0, column + 1)
            pen.text((x + self._cell[0] / 2, head / 2), label, "black", font, anchor="mm")
        for row, label in enumerate(down):
            _, y = self._corner(row + 1, 0)
            name = Image.new("L", (self._cell[1], head), 255)
            ImageDraw.Draw(name).text((self._cell[1] / 2, head / 2), label, 0, font, anchor="mm")
            self.image.paste(name.rotate(90, expand=True), (0, y))

    def put(self, row: int, column: int, image: Tensor) -> None:
        """Place a picture, uint8 [C, H, W]; row 0 holds the styles and column 0 the contents."""
        picture = to_pil(image)
        if picture.size != self._cell:
            picture = picture.resize(self._cell, Image.Resampling.BOX)
        self.image.paste(picture, self._corner(row, column))

    def cell_at(self, x: int, y: int) -> tuple[int, int]:
        """Row and column, from 0, of the mix at a pixel; -1 for the edges."""
        row = (y - self._head) // (self._cell[1] + 2) - 1
        column = (x - self._head) // (self._cell[0] + 2) - 1
        return min(row, self._shape[0] - 1), min(column, self._shape[1] - 1)

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        return self._head + column * (self._cell[0] + 2), self._head + row * (self._cell[1] + 2)
