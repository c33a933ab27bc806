"""The Sample tab: seeds to pictures."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gradio as gr
from torch import Tensor

from fastgan.app.common import QUICK, QUIET, Pace, Page, check_pixels, endpoint, press_soon, show_gallery
from fastgan.app.first import COUNT, PSI, SEED
from fastgan.app.models import Found
from fastgan.app.pictures import name_of, serve_png, serve_zip
from fastgan.errors import UserError
from fastgan.sampling import sample as draw_seeds
from fastgan.sampling import to_pil

MAX_COUNT = 64
MAX_DICE = 2**31 - 1
LOOK = 0.7  # seconds between looks at a gallery that is still growing

# A seed that chance brings, and the ones that it replaced, the last one first.
ROLL = f"""(seed) => {{
    (window.fastganRolled ??= []).push(seed);
    return Math.floor(Math.random() * {MAX_DICE});
}}"""
ROLL_BACK = "(seed) => (window.fastganRolled ?? []).pop() ?? seed"


class SampleTab(NamedTuple):
    """What the page wires to other tabs."""

    pictures: gr.Gallery
    picked: gr.Number
    to_interpolate: gr.Button
    to_content: gr.Button
    to_style: gr.Button
    to_explore: gr.Button


def sample_tab(page: Page) -> SampleTab:
    """Build the tab inside the current one."""

    @endpoint
    def sample(
        model: str, psi: float, seed: int, count: int, token: gr.OAuthToken | None = None
    ) -> Iterator[list[tuple[str, str]]]:
        """Draw pictures for `count` seeds that follow each other, the gallery growing as they are made.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            seed: the first seed, a whole number from 0; one seed is one picture.
            count: how many pictures, from 1 to 64.

        Returns:
            PNG pictures, each with its seed as caption and with model, revision, seed and psi in its metadata.
        """
        if seed is None:
            raise UserError("First seed: type a whole number")
        found = page.open(model, token)
        check_pixels(found, count)
        drawn, pace = [], Pace(LOOK)
        for picture in seed_pictures(found, range(seed, seed + count), psi, page.in_turn):
            drawn.append(picture)
            if len(drawn) == count or pace.due():
                yield drawn
        if (found.where, psi, seed, count) == (page.first.model, PSI, SEED, COUNT):
            page.first.keep(found, drawn)

    @endpoint
    def sample_zip(model: str, psi: float, seed: int, count: int, token: gr.OAuthToken | None = None) -> str:
        """Draw pictures for `count` seeds that follow each other and pack them.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            seed: the first seed, a whole number from 0; one seed is one picture.
            count: how many pictures, from 1 to 64.

        Returns:
            A ZIP with one PNG per seed, and a JSON file that says how they were drawn.
        """
        *_, drawn = sample(model, psi, seed, count, token)
        found = page.open(model, token)
        facts = {"model": found.name, "revision": found.revision, "seeds": [seed, seed + count - 1], "psi": psi}
        name = name_of(found, f"seeds{seed}-{seed + count - 1}")
        return serve_zip([path for path, _ in drawn], name, {"how.json": json.dumps(facts, indent=2) + "\n"})

    with gr.Row():
        seed = page.linked("seed", gr.Number(SEED, label="First seed", precision=0, minimum=0, min_width=120))
        many = gr.Slider(1, MAX_COUNT, COUNT, step=1, precision=0, label="How many", min_width=160)
        count = page.linked("count", many)
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", elem_id="draw-sample", min_width=130)
        dice = gr.Button("Roll the dice", min_width=130)
        back = gr.Button("Back", min_width=130)
        pack = gr.Button("All as ZIP", min_width=130)
    packed = gr.DownloadButton("ZIP", visible="hidden", elem_id="sample-zip")
    pictures = show_gallery("Pictures", elem_id="pictures", elem_classes="pictures")
    pictures.keep_in_cache = page.first.files
    gr.Markdown("Click a picture to look closer, to keep it, or to take its seed along:")
    with gr.Row(elem_id="take-along"):
        picked = gr.Number(0, label="Chosen seed", precision=0, minimum=0, min_width=120, elem_id="picked")
        with gr.Column(scale=4, min_width=240):
            with gr.Row():
                to_interpolate = gr.Button("Interpolate", min_width=110)
                to_content = gr.Button("Mix as content", min_width=110)
                to_style = gr.Button("Mix as style", min_width=110)
                to_explore = gr.Button("Explore", min_width=110)

    inputs = [page.model, page.psi, seed, count]
    gr.on(
        [draw.click, seed.submit],
        sample,
        inputs,
        pictures,
        api_name="sample",
        show_progress="minimal",
        trigger_mode="always_last",
        **QUICK,
    )
    count.change(None, js=press_soon("draw-sample"), api_visibility="private")
    for button, js in ((dice, ROLL), (back, ROLL_BACK)):
        button.click(None, seed, seed, js=js, api_visibility="private").then(
            None, js="() => { document.getElementById('draw-sample').click(); }", api_visibility="private"
        )
    pack.click(sample_zip, inputs, packed, api_name="sample_zip", **QUICK).success(
        None, js="() => { document.getElementById('sample-zip').click(); }", api_visibility="private"
    )

    def pick(event: gr.SelectData) -> int:
        return int(event.value["caption"].removeprefix("seed "))

    pictures.select(pick, None, picked, **QUIET)
    return SampleTab(pictures, picked, to_interpolate, to_content, to_style, to_explore)


def seed_pictures(
    found: Found,
    seeds: Sequence[int],
    psi: float,
    in_turn: Callable[[Iterator[Tensor]], Iterator[Tensor]] = iter,
) -> Iterator[tuple[str, str]]:
    """Draw seeds and give, as they are made, the file and the caption of each.

    Args:
        found: what draws.
        seeds: which pictures.
        psi: truncation.
        in_turn: what the batches pass through as they are drawn.
    """
    drawn = (image for batch in in_turn(draw_seeds(found.generator, seeds, psi)) for image in batch)
    for number, image in zip(seeds, drawn, strict=True):
        name = name_of(found, f"seed{number}")
        yield serve_png(to_pil(image), found, name, seed=number, psi=psi), f"seed {number}"
