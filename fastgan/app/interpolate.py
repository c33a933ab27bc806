"""The Interpolate tab: a walk over key seeds, watched while it is drawn, then as a film."""

import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

import gradio as gr

from fastgan.app.common import GATES, LONG, QUIET, Pace, Page, check_pixels, endpoint, show_picture
from fastgan.app.keys import read_keys
from fastgan.app.pictures import name_of, serve_film, serve_png
from fastgan.errors import UserError
from fastgan.sampling import interpolate as walk_over
from fastgan.sampling import to_pil, walk

MOST = 16  # keys
MAX_FRAMES = 600
MAX_FILM = 2**27  # pixels of all frames together: 128 of 1024 by 1024
LOOK = 0.3  # seconds between looks at a film that is still growing
ALSO = ("nothing", "GIF", "WebP")


class InterpolateTab(NamedTuple):
    """What the page wires to other tabs."""

    keys: gr.Textbox


def interpolate_tab(page: Page) -> InterpolateTab:
    """Build the tab inside the current one."""

    @endpoint
    def interpolate(
        model: str,
        psi: float,
        keys: str,
        between: int,
        path: Literal["spherical", "linear"],
        easing: Literal["even", "smooth"],
        loop: bool,
        fps: int,
        held: list[str],
        style: str,
        also: Literal["nothing", "GIF", "WebP"],
        token: gr.OAuthToken | None = None,
    ) -> Iterator[tuple[str, str | None, str | None, str]]:
        """Draw a film that walks from key to key, the newest frame shown as it is made.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            keys: the seeds it passes, in this order, like 0-3 or 5,9,2; from 2 to 16.
            between: frames from one key to the next, from 1 to 120; at most 600 frames in all.
            path: "spherical" keeps to the shell where latents are typical, "linear" goes straight.
            easing: "even" keeps its pace, "smooth" slows down near the keys.
            loop: back to the first key at the end, so that the film can run for ever.
            fps: frames per second, from 4 to 60.
            held: skip-layer gates that keep one style over the whole film, of 64, 128, 256 and 512.
            style: the seed whose style the held gates keep; empty for the first key.
            also: a second file beside the MP4: "nothing", "GIF" or "WebP".

        Returns:
            The newest frame as PNG; the film as MP4 (H.264); the second file if there is one; and how far it is.
        """
        found = page.open(model, token)
        generator = found.generator
        stops = read_keys(generator, keys, psi, "Key seeds", MOST)
        steps = walk(len(stops.z), between, easing == "smooth", loop)
        if len(steps) > MAX_FRAMES:
            raise UserError(f"{len(steps)} frames are too many at a time; at most {MAX_FRAMES}: fewer keys or steps")
        check_pixels(found, len(steps), MAX_FILM, "frames")
        still = read_keys(generator, style, psi, "Held style", 1).z if (style or "").strip() else stops.z[:1]
        drawn = walk_over(
            generator,
            stops.z,
            stops.noise,
            steps,
            path == "spherical",
            still if held else None,
            {int(gate): 1.0 for gate in held},
        )
        frames, begin, pace = [], time.monotonic(), Pace(LOOK)
        for frame in page.one_by_one(drawn):
            frames.append(frame)
            if pace.due():
                left = (time.monotonic() - begin) / len(frames) * (len(steps) - len(frames))
                told = f"Frame {len(frames)} of {len(steps)}, about {left:.0f} s left"
                yield serve_png(to_pil(frame), found, "frame"), None, None, told
        name = name_of(found, "walk", keys)
        mp4 = serve_film(frames, f"{name}.mp4", fps)
        second = None if also == "nothing" else serve_film(frames, f"{name}.{also.lower()}", fps)
        told = f"{len(steps)} frames, {len(steps) / fps:.1f} s"
        yield serve_png(to_pil(frames[-1]), found, "frame"), mp4, second, told

    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            told = gr.Markdown("", elem_id="film-told")
            frame = show_picture("The newest frame", buttons=(), elem_id="frame", elem_classes="shown")
            film = gr.Video(
                label="Film",
                show_label=False,
                interactive=False,
                autoplay=True,
                loop=True,
                visible=False,
                buttons=["download"],
                elem_id="film",
                elem_classes="shown",
            )
            second = gr.File(label="GIF or WebP", interactive=False, visible=False, elem_id="second")
        with gr.Column(scale=2, min_width=280):
            keys = page.linked("keys", gr.Textbox("0-3", label="Key seeds, in this order", max_lines=1))
            with gr.Row():
                between = page.linked(
                    "between", gr.Slider(1, 120, 24, step=1, precision=0, label="Frames per key", min_width=140)
                )
                fps = page.linked("fps", gr.Slider(4, 60, 24, step=1, precision=0, label="Per second", min_width=140))
            with gr.Row():
                path = page.linked(
                    "path", gr.Radio(["spherical", "linear"], value="spherical", label="Path", min_width=140)
                )
                easing = page.linked("easing", gr.Radio(["even", "smooth"], value="even", label="Pace", min_width=140))
            loop = page.linked("loop", gr.Checkbox(True, label="Back to the first key, to run for ever"))
            with gr.Accordion("Hold the style still", open=False):
                held = page.linked(
                    "held", gr.CheckboxGroup(GATES, value=[], label="Gates that keep one style throughout")
                )
                style = page.linked("still", gr.Textbox("", label="Seed of that style", info="the first key if empty"))
            also = page.linked("also", gr.Radio(list(ALSO), value="nothing", label="Beside the MP4"))
            with gr.Row():
                run = gr.Button("Make the film", variant="primary", elem_id="draw-interpolate", min_width=120)
                stop = gr.Button("Stop", variant="stop", min_width=80, elem_id="stop-interpolate")

    shown = [frame, film, second]
    begun = gr.on(
        [run.click, keys.submit],
        lambda: (gr.Image(visible=True), gr.Video(visible=False), gr.File(visible=False)),
        None,
        shown,
        **QUIET,
    )
    drawing = begun.then(
        interpolate,
        [page.model, page.psi, keys, between, path, easing, loop, fps, held, style, also],
        [frame, film, second, told],
        api_name="interpolate",
        show_progress="minimal",
        show_progress_on=[told],
        trigger_mode="always_last",  # what was asked for meanwhile is drawn next, not forgotten
        **LONG,
    )
    drawing.success(
        lambda also: (gr.Image(visible=False), gr.Video(visible=True), gr.File(visible=also != "nothing")),
        also,
        shown,
        **QUIET,
    )
    # Said after the cancelling, so that no frame on its way says something else.
    stop.click(None, cancels=[drawing], api_visibility="private").then(lambda: "Stopped.", None, told, **QUIET)
    return InterpolateTab(keys)
