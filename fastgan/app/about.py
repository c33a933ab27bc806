"""The About tab: the model's own card, its figures, settings and grids, and whether a picture is a copy."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import safetensors
import torch
from huggingface_hub import HfApi
from torch import Tensor

from fastgan.app.cards import read_card, read_settings
from fastgan.app.common import QUICK, QUIET, Page, endpoint, show_gallery
from fastgan.app.keys import read_keys
from fastgan.app.models import Found
from fastgan.app.pictures import name_of, serve
from fastgan.errors import UserError
from fastgan.features import SCALES
from fastgan.files import (
    CARD_FILE,
    CONFIG_FILE,
    FEATURES_FILE,
    NEAREST_FILE,
    SAMPLES_FILE,
    SETTINGS_FILE,
    SHARED_SETTINGS_FILE,
    STYLE_MIX_FILE,
)
from fastgan.metrics import extract, feature_network, memorisation, nearest_training
from fastgan.projection import open_picture
from fastgan.sampling import draw

GRIDS = {
    SAMPLES_FILE: "Pictures of the first seeds",
    STYLE_MIX_FILE: "Style mixing",
    NEAREST_FILE: "Drawn pictures on the left, beside each the training pictures nearest to it",
}
MAX_TEXT = 100_000  # bytes of a card, and of a file of settings
MAX_FEATURES = 2**27  # bytes
MAX_GRID = 20 * 2**20  # bytes
NEIGHBOURS = 5


class Features(NamedTuple):
    """What a repository says of its training pictures."""

    rows: Tensor  # [N, F]
    network: str  # that they are from
    places: Tensor  # [N], of these pictures in the dataset
    pictures: int  # in the dataset; N at least


def about_tab(page: Page, picked: gr.Number) -> None:
    """Build the tab inside the current one.

    Args:
        page: what it belongs to.
        picked: the seed that was last chosen elsewhere.
    """

    @endpoint
    def about(
        model: str, token: gr.OAuthToken | None = None
    ) -> tuple[str, list[list[str]], list[list[str]], list[tuple[str, str]]]:
        """Read what a model's repository says of it.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.

        Returns:
            The card as HTML that only formats text; figures as rows of name, value and dataset; settings as rows of
            name and value; and the repository's own sheets of pictures.
        """
        found = page.open(model, token)

        def file(name: str, most: int) -> Path | None:
            return page.models.path(found, name, most, token.token if token else None)

        def optional(name: str, most: int) -> Path | None:
            with suppress(UserError):
                return file(name, most)

        path = file(CARD_FILE, MAX_TEXT)
        address = f"{HfApi().endpoint}/{found.name}/blob/{found.revision}/" if found.revision else None
        card = read_card(path.read_text("utf-8", errors="replace"), address) if path else None
        settings = []
        for name in (CONFIG_FILE, SETTINGS_FILE, SHARED_SETTINGS_FILE):
            if path := optional(name, MAX_TEXT):
                settings.extend(row for row in read_settings(path) if row not in settings)
        grids = []
        for name, caption in GRIDS.items():
            if (path := optional(name, MAX_GRID)) and _is_png(path):
                grids.append((serve(path.read_bytes(), f"{name_of(found, Path(name).stem)}.png"), caption))
        return (
            card.html if card else "<p>It has no card, or too long a one.</p>",
            card.figures if card else [],
            settings,
            grids,
        )

    @endpoint
    def nearest(
        model: str, psi: float, seed: str, token: gr.OAuthToken | None = None
    ) -> tuple[str, list[list[str | int]]]:
        """Compare a seed's picture with the pictures that the model was trained on.

        Args:
            model: Hub id of a fastgan model, as user/name or user/name@revision.
            psi: truncation from 0 to 2; 1 is off, lower is less varied with fewer accidents.
            seed: which picture.

        Returns:
            Whether it looks like a copy, and the nearest training pictures as rows of number and distance.
        """
        found = page.open(model, token)
        path = page.models.path(found, FEATURES_FILE, MAX_FEATURES, token.token if token else None)
        if path is None:
            raise UserError(f"{found.name} has no features of its training pictures, so nothing can be compared")
        training = read_features(path, found)
        key = read_keys(found.generator, seed, psi, "Seed", 1)
        [image] = page.in_turn(draw(found.generator, key.z, key.noise))
        # Whoever learns from mirrored pictures may copy those.
        both = extract(feature_network(training.network), torch.cat([image, image.flip(3)]))
        near = nearest_training(both, training.rows, k=min(NEIGHBOURS, len(training.rows)))
        side = int(near.distances[:, 0].argmin())
        copied = memorisation(both[side : side + 1], training.rows)
        pairs = zip(training.places[near.indices[side]].tolist(), near.distances[side].tolist(), strict=True)
        rows = [[index, f"{distance:.2f}"] for index, distance in pairs]
        which = f"seed {key.labels[0]} of {found.name}" + ("" if psi == 1 else f" at truncation {psi:g}")
        text = (
            f"The distance of {which} to the nearest training picture is **{copied.distance_ratio:.2f}** times that "
            f"between a training picture and the one nearest to it: 0 is a copy, 1 is as new as training pictures are "
            f"to each other ({len(training.rows):,} pictures, seen through {training.network})."
        )
        rest = training.pictures - len(training.rows)
        none = f"**Not a copy** of these; {rest:,} more were not looked at. " if rest else "**Not a copy.** "
        return ("**Very near to a training picture.** " if copied.near_share else none) + text, rows

    read = gr.Button("Read what the repository says", elem_id="draw-about", visible="hidden")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            card = gr.HTML("", elem_id="card", elem_classes="prose", js_on_load=None)
        with gr.Column(scale=2, min_width=300):
            seed = gr.Textbox("0", label="Is this seed's picture a copy?", max_lines=1)
            compare = gr.Button("Compare with the training pictures")
            verdict = gr.Markdown("", elem_id="verdict")
            neighbours = gr.Dataframe(
                headers=["Training picture", "Distance"],
                label="Nearest training pictures, by their place in the dataset",
                interactive=False,
                visible=False,
            )
            grids = show_gallery("Sheets from the repository", columns=1, elem_id="grids")
    with gr.Accordion("Figures", open=False):
        figures = gr.Dataframe(headers=["Figure", "Value", "Dataset"], label="Figures", interactive=False)
    with gr.Accordion("Settings", open=False):
        settings = gr.Dataframe(headers=["Setting", "Value"], label="Settings", interactive=False)

    read.click(about, page.model, [card, figures, settings, grids], api_name="about", show_progress="minimal", **QUICK)
    gr.on(
        [compare.click, seed.submit],
        nearest,
        [page.model, page.psi, seed],
        [verdict, neighbours],
        api_name="nearest",
        show_progress="minimal",
        **QUICK,
    ).success(
        lambda: gr.Dataframe(visible=True),
        None,
        neighbours,
        **QUIET,
    )
    # A verdict stands for one picture of one model.
    gr.on(
        [page.model.change, page.psi.change, seed.change],
        lambda: ("", gr.Dataframe(visible=False)),
        None,
        [verdict, neighbours],
        trigger_mode="always_last",
        **QUIET,
    )
    picked.change(None, picked, seed, js="(seed) => String(seed)", api_visibility="private")


def _is_png(path: Path) -> bool:
    """Whether a file is a PNG of a size that can be shown."""
    try:
        return open_picture(path, path.name).format == "PNG"
    except UserError:
        return False


def read_features(path: Path, found: Found) -> Features:
    """The features of the training pictures that a repository holds.

    Raises:
        UserError: they are not what `fastgan evaluate` writes, or from a network that is not here.
    """
    rows, places, network, count = torch.empty(0), torch.empty(0), "", ""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            network, count = about.get("network", ""), about.get("pictures", "")
            rows = file.get_tensor("features")
            places = file.get_tensor("places") if "places" in file.keys() else torch.arange(len(rows))
    except (OSError, safetensors.SafetensorError):
        pass
    fits = rows.ndim == 2 and len(rows) > 1 and rows.dtype == torch.float32 and network in SCALES
    if not fits or places.shape != rows.shape[:1] or places.dtype != torch.int64:
        raise UserError(
            f"{found.name}: its {FEATURES_FILE} can't be used here; `fastgan evaluate` writes one that can"
        )
    return Features(rows, network, places, max(len(rows), int(count) if count.isdecimal() and len(count) < 18 else 0))
