"""The Explore tab: what the first layer's main directions do to a picture, as sliders with names of one's own."""

import functools
import json
import weakref
from typing import NamedTuple

import gradio as gr
import torch
from torch import Tensor

from fastgan.app.common import QUICK, QUIET, Page, check_pixels, endpoint, show_gallery, show_picture, upload_button
from fastgan.app.keys import Keys, read_keys
from fastgan.app.pictures import name_of, serve, serve_png
from fastgan.errors import UserError
from fastgan.models import Generator
from fastgan.sampling import directions, draw, to_pil

COUNT = 10  # directions
REACH = 5  # how far a slider goes; a latent's own share along a direction is a standard normal number
MAX_STRIP = 15  # pictures
MAX_NAME = 40  # characters
MAX_FILE = 100_000  # bytes of a file of names


class ExploreTab(NamedTuple):
    """What the page wires to other tabs."""

    start: gr.Textbox


def explore_tab(page: Page) -> ExploreTab:
    """Build the tab inside the current one."""
    known: weakref.WeakKeyDictionary[Generator, Tensor] = weakref.WeakKeyDictionary()

    def along(generator: Generator) -> Tensor:
        """The directions [COUNT, Z], worked out once for a model."""
        if generator not in known:
            known[generator] = directions(generator, COUNT)
        return known[generator]

    def moved(generator: Generator, start: str, psi: float, amounts: list[float]) -> Keys:
        """The key that a text names, so far along each direction."""
        key = read_keys(generator, start, psi, "Start", 1)
        by = torch.tensor(amounts, dtype=torch.float32)
        if not (by.abs() <= 2 * REACH).all():
            raise UserError(f"directions: expected numbers from {-2 * REACH} to {2 * REACH}")
        basis = along(generator)
        return key._replace(z=key.z + by[: len(basis)] @ basis)

    @endpoint
    def explore(
        model: str,
        psi: float,
        start: str,
        direction_1: float,
        direction_2: float,
        direction_3: float,
        direction_4: float,
        direction_5: float,
        direction_6: float,
        direction_7: float,
        direction_8: float,
        direction_9: float,
        direction_10: float,
        token: gr.OAuthToken | None = None,
    ) -> str:
        """Draw a seed's picture, moved along the directions in which the model's first layer changes most.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            start: the seed to start from.
            direction_1: how far along the strongest direction, from -5 to 5; 0 stays.
            direction_2: how far along the second; the others follow by strength.

        Returns:
            A PNG.
        """
        found = page.open(model, token)
        amounts = [direction_1, direction_2, direction_3, direction_4, direction_5]
        amounts += [direction_6, direction_7, direction_8, direction_9, direction_10]
        key = moved(found.generator, start, psi, amounts)
        [image] = page.in_turn(draw(found.generator, key.z, key.noise))
        facts = {"seed": start, "psi": psi, "directions": amounts}
        return serve_png(to_pil(image[0]), found, name_of(found, "explore", *key.labels), **facts)

    @endpoint
    def explore_strip(
        model: str,
        psi: float,
        start: str,
        direction: int,
        reach: float,
        count: int,
        token: gr.OAuthToken | None = None,
    ) -> list[tuple[str, str]]:
        """Draw what one direction does to a seed's picture, step by step.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            start: the seed in the middle.
            direction: which, from 1, the strongest, to 10.
            reach: how far to either side, from 0 to 5.
            count: how many pictures, from 3 to 15.

        Returns:
            PNG pictures, each with how far along it is as caption.
        """
        found = page.open(model, token)
        if not 1 <= direction <= COUNT:
            raise UserError(f"direction: expected a whole number from 1 to {COUNT}, got {direction}")
        check_pixels(found, count)
        strip = []
        for amount in torch.linspace(-reach, reach, count).tolist():
            amounts = [0.0] * COUNT
            amounts[direction - 1] = amount
            key = moved(found.generator, start, psi, amounts)
            [image] = page.in_turn(draw(found.generator, key.z, key.noise))
            caption = f"{amount:+.1f}"
            name = name_of(found, "explore", *key.labels, f"direction{direction}", caption)
            facts = {"seed": start, "psi": psi, "directions": amounts}
            strip.append((serve_png(to_pil(image[0]), found, name, **facts), caption))
        return strip

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = show_picture("The picture, moved", elem_id="explored", elem_classes="shown")
        with gr.Column(scale=3, min_width=280):
            start = page.linked("start", gr.Textbox("0", label="Start at seed", max_lines=1))
            sliders = []
            for row in range(0, COUNT, 2):
                with gr.Row():
                    for number in (row + 1, row + 2):
                        slider = gr.Slider(
                            -REACH,
                            REACH,
                            0,
                            step=0.1,
                            label=f"Direction {number}",
                            min_width=200,
                            elem_id=f"d{number}",
                        )
                        sliders.append(page.linked(f"d{number}", slider))
            with gr.Row():
                run = gr.Button("Draw", variant="primary", elem_id="draw-explore", min_width=100)
                reset = gr.Button("Back to the seed", min_width=100)
    with gr.Accordion("Names of the directions", open=False):
        names = []
        for row in range(0, COUNT, 5):
            with gr.Row():
                for number in range(row + 1, row + 6):
                    names.append(
                        gr.Textbox(
                            "",
                            label=f"Direction {number}",
                            placeholder="what it does",
                            max_length=MAX_NAME,
                            max_lines=1,
                            min_width=130,
                        )
                    )
        with gr.Row():
            save = gr.Button("Save the names", min_width=120)
            load = upload_button("Load names", file_types=[".json"], min_width=120, elem_id="load-names")
        saved = gr.DownloadButton("Names", visible="hidden", elem_id="names-file")
    with gr.Row():
        which = page.linked(
            "direction",
            gr.Slider(1, COUNT, 1, step=1, precision=0, label="Direction of the strip", min_width=160),
        )
        reach = page.linked("reach", gr.Slider(0, REACH, 3, step=0.5, label="How far to either side", min_width=160))
        count = page.linked("steps", gr.Slider(3, MAX_STRIP, 7, step=2, precision=0, label="Pictures", min_width=160))
    strip = show_gallery("Strip", elem_id="strip", elem_classes="pictures")

    moving = {
        "fn": explore,
        "inputs": [page.model, page.psi, start, *sliders],
        "outputs": picture,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        **QUICK,
    }
    stripping = {
        "fn": explore_strip,
        "inputs": [page.model, page.psi, start, which, reach, count],
        "outputs": strip,
        "show_progress": "minimal",
        "trigger_mode": "always_last",
        **QUICK,
    }
    gr.on([slider.input for slider in sliders], api_name="explore", **moving)
    gr.on([which.input, reach.input, count.input], api_name="explore_strip", **stripping)
    gr.on([run.click, start.submit], api_visibility="private", **moving).success(api_visibility="private", **stripping)
    reset.click(None, None, sliders, js=f"() => Array({COUNT}).fill(0)", api_visibility="private").then(
        api_visibility="private", **moving
    )

    def label(number: int, name: str):
        return gr.Slider(label=name.strip()[:MAX_NAME] or f"Direction {number}")

    for number, (name, slider) in enumerate(zip(names, sliders, strict=True), 1):
        name.change(
            functools.partial(label, number),
            name,
            slider,
            **QUIET,
        )

    @endpoint
    def save_names(model: str, *typed: str, token: gr.OAuthToken | None = None) -> str:
        found = page.open(model, token)
        named = {str(number): name.strip() for number, name in enumerate(typed, 1) if name.strip()}
        facts = {"model": found.name, "revision": found.revision, "directions": named}
        return serve(
            (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode(), f"{name_of(found, 'names')}.json"
        )

    save.click(save_names, [page.model, *names], saved, api_visibility="private", **QUICK).success(
        None, js="() => { document.getElementById('names-file').click(); }", api_visibility="private"
    )
    load.upload(endpoint(read_names), load, names, show_progress="hidden", api_visibility="private", **QUICK)
    return ExploreTab(start)


def read_names(path: str) -> list[str]:
    """Names of the directions from a file that the page saved; empty where it has none.

    Raises:
        UserError: it is no such file.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    try:
        named = json.loads(data)["directions"] if len(data) <= MAX_FILE else None
        names = [named.get(str(number), "") for number in range(1, COUNT + 1)]
        if not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError("This file holds no names of directions; save one here to see what it looks like") from None
    return [name[:MAX_NAME] for name in names]
