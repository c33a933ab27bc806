"""A picture of one's own as content or style: uploaded, searched for in the model, and how near that came."""

import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from fastgan.app.common import LONG, QUIET, Pace, Page, endpoint, show_picture, upload_button
from fastgan.app.pictures import name_of, serve_png
from fastgan.errors import UserError
from fastgan.projection import encode_latent, open_picture
from fastgan.projection import project as search
from fastgan.sampling import to_pil

MOST_SEARCHED = 1024  # pixels; a step of a larger one would hold others up for a minute
LOOK = 0.5  # seconds between looks at a search that goes on


def projection_panel(page: Page, content: gr.Textbox, style: gr.Textbox, then: dict) -> None:
    """Build the panel inside the current tab.

    Args:
        page: what it belongs to.
        content, style: fields that take the code of a picture that was found.
        then: arguments of the event that draws anew with it.
    """

    @endpoint
    def project(
        model: str, picture: str, steps: int, token: gr.OAuthToken | None = None
    ) -> Iterator[tuple[str, str, str, str]]:
        """Search for the latent that draws a picture most nearly.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            picture: a PNG, JPEG or WebP file of up to 20 MB and 50 million pixels.
            steps: how long to search, from 20 to 400.

        Returns:
            The picture as the model could draw it at best; what it really draws; a code that stands for it wherever a
            seed may be typed; and how near that came.
        """
        if not picture:
            raise UserError("Which picture? Upload one first")
        found = page.open(model, token)
        level = found.generator.config.level
        if level > MOST_SEARCHED:
            raise UserError(f"Searching in a model of {level} pixels takes too long here; try `fastgan project`")
        opened = open_picture(Path(picture), "Picture")
        begin, pace, behind = time.monotonic(), Pace(LOOK), 0
        wanted = None
        for nearest in page.in_turn(search(found.generator, opened, keep=3 if level <= 512 else 1, steps=steps)):
            behind += 1
            last = nearest.done == nearest.steps
            if not (last or pace.due()):
                continue
            wanted = wanted or serve_png(to_pil(nearest.target[0]), found, "wanted")
            code = encode_latent(nearest.z)
            drawn = serve_png(to_pil(nearest.image[0]), found, name_of(found, "projected"), seed=code, psi=1)
            how_near = (
                f"Perceptual distance **{nearest.perceptual:.2f}**, where a copy has 0 and a random seed "
                f"{nearest.by_chance:.2f}; pixels are off by **{nearest.pixel:.0f}** of 255."
            )
            if last:
                told = f"Found. {how_near}"
            elif not nearest.done:
                told = f"Looking at seeds. {how_near}"
            else:
                left = (time.monotonic() - begin) / behind * (nearest.steps - nearest.done)
                told = f"Step {nearest.done} of {nearest.steps}, about {left:.0f} s left. {how_near}"
            yield wanted, drawn, code, told

    gr.Markdown(
        "The model draws only what it has learned: a picture from elsewhere comes back as the nearest thing it knows."
    )
    with gr.Row():
        upload = upload_button(
            "Upload a picture", file_types=["image"], variant="primary", min_width=140, elem_id="upload"
        )
        steps = gr.Slider(20, 400, 120, step=10, precision=0, label="Steps of the search", min_width=160)
        stop = gr.Button("Stop", variant="stop", min_width=80, elem_id="stop-project")
    told = gr.Markdown("", elem_id="project-told")
    with gr.Row():
        shown = {"show_label": True, "elem_classes": "shown"}
        wanted = show_picture("Your picture", buttons=(), elem_id="wanted", **shown)
        drawn = show_picture("What the model draws", buttons=("download",), elem_id="projected", **shown)
    code = gr.Textbox(
        "", label="Its code", info="stands for it wherever a seed may be typed", max_lines=1, elem_id="code"
    )
    with gr.Row():
        as_content = gr.Button("Mix as content", min_width=120)
        as_style = gr.Button("Mix as style", min_width=120)

    searching = upload.upload(
        project,
        [page.model, upload, steps],
        [wanted, drawn, code, told],
        api_name="project",
        show_progress="minimal",
        show_progress_on=[told],
        trigger_mode="once",
        **LONG,
    )
    stop.click(None, cancels=[searching], api_visibility="private").then(
        lambda: "Stopped. This is the nearest so far.",
        None,
        told,
        **QUIET,
    )
    for button, field in ((as_content, content), (as_style, style)):
        button.click(None, [field, code], field, js=ADD_CODE, api_visibility="private").then(**then)


ADD_CODE = '(text, code) => !code ? text : text.trim() ? text + "," + code : code'
