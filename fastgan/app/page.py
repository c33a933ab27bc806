"""The whole page: a model above, tabs below, its state in the address."""

import logging
import os
from collections.abc import Callable, Sequence

import gradio as gr
import torch
from starlette.middleware import Middleware

from fastgan.app.about import about_tab
from fastgan.app.common import QUICK, QUIET, Page, click_when_there, endpoint, read_address, soon, write_address
from fastgan.app.explore import explore_tab
from fastgan.app.first import COUNT, MAX_PIXELS, PSI, SEED, First, FirstLook
from fastgan.app.interpolate import interpolate_tab
from fastgan.app.mix import mix_tab
from fastgan.app.models import ModelCache
from fastgan.app.pictures import tolerate_additions
from fastgan.app.sample import sample_tab, seed_pictures
from fastgan.errors import UserError
from fastgan.fast import share_freed_memory
from fastgan.hub import from_pretrained
from fastgan.models import Generator

log = logging.getLogger("fastgan.app")

TITLE = "FastGAN"
HINT = "Type a model's id above, and press Enter."
MAX_WAITING = 200  # requests; the next visitor is told to come back
MAX_SESSIONS = 100  # remembered by Gradio, at some 0.2 MB; nothing here depends on them
KEPT = (300, 1800)  # seconds: how often served files are cleaned up, and how old they get
MAX_UPLOAD = "20mb"
RECENT = 8  # models remembered in the visitor's own browser
THEME = gr.themes.Soft(primary_hue="violet", font=["ui-sans-serif", "system-ui", "sans-serif"]).set(
    block_title_background_fill="none",
    block_title_padding="0",
    block_title_text_color="*body_text_color",
    block_title_text_weight="500",
    button_large_text_weight="500",
    button_small_text_weight="500",
    button_border_width="1px",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_600",
    checkbox_label_border_width="1px",
    checkbox_label_border_color="*neutral_300",
    checkbox_label_border_color_dark="*neutral_600",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600",
)
# As many pictures side by side as there is room for, small pictures shown as large as large ones, and one that is
# looked at closely as large as the window, above what takes its seed along.
CSS = """
.gradio-container { width: 100%; max-width: 1280px !important; margin: auto; }
#card pre { overflow-x: auto; }
.pictures .grid-wrap { max-height: none !important; min-height: 0 !important; }
.pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)) !important; }
.pictures .caption-label, #grids .caption-label { font-size: 0.7rem; padding: 0 6px; opacity: 0.85; }
.pictures .preview { position: fixed !important; inset: 0 0 var(--below, 0) 0 !important; z-index: 900; }
.pictures .preview { width: auto !important; height: auto !important; }
body:has(#pictures .preview) #pictures { --below: 6.5rem; }
body:has(#pictures .preview) #take-along { position: fixed; inset: auto 0 0 0; height: 6.5rem; z-index: 901; }
body:has(#pictures .preview) #take-along { padding: 0.5rem; overflow: auto; background: var(--body-background-fill); }
@media (max-width: 640px) { body:has(#pictures .preview) #picked { display: none; } }
#grids .grid-wrap { max-height: none !important; }
.shown .image-container, .shown .image-container > button, .shown .image-frame { width: 100%; }
.shown img, .shown video { width: 100% !important; max-height: min(62vh, 480px) !important; }
.shown img, .shown video { object-fit: contain !important; }
"""


def build_demo(
    load: Callable[..., Generator] = from_pretrained, models: Sequence[str] = (), allow_local: bool = False
) -> gr.Blocks:
    """The page, ready to launch.

    Args:
        load: called as `load(model, revision=..., token=...)`; gives a generator in eval mode.
        models: what the model box offers, the first one to begin with: Hub ids, "user/name@revision", run folders.
        allow_local: visitors may type folders too. For one's own machine only.
    """
    return _build(ModelCache(load, models, allow_local), list(models), First(models[0] if models else ""))


def launch(
    model: str = "",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    models: Sequence[str] = (),
    allow_local: bool = False,
    mcp: bool = False,
    share: bool = False,
    device: str | torch.device = "cpu",
) -> None:
    """Serve the page until it is stopped.

    A Space opens without its first model where that can't be had just now: its visitors can try again.

    Args:
        model: Hub id or run folder to begin with.
        host: "0.0.0.0" to be reachable from other machines.
        port: the first free one from 7860 when not given.
        models: others that the model box offers.
        allow_local: visitors may type folders too. For one's own machine only.
        mcp: serve the actions as MCP tools as well.
        share: give it a public address for up to a week, through Gradio's servers.
        device: what draws; "auto" is the GPU where there is one.

    Raises:
        UserError: the model can't be opened, the port is taken, or the package `mcp` is missing.
    """
    share_freed_memory()
    offered = [name for name in (model, *models) if name]
    cache = ModelCache(given=offered, allow_local=allow_local, device=device)
    first = First(offered[0].strip() if offered else "")
    try:
        if offered:
            found = cache.get(offered[0])  # so that a wrong name is said here
            config = found.generator.config
            if COUNT * config.height * config.width <= MAX_PIXELS:
                first.keep(found, list(seed_pictures(found, range(SEED, SEED + COUNT), PSI)))
    except UserError as error:
        if "SPACE_ID" not in os.environ:
            raise
        log.error("%s (a private model needs a secret HF_TOKEN in the Space's settings)", error)
    if mcp:
        try:
            import mcp as _  # noqa: F401
        except ImportError:
            raise UserError('--mcp needs the package mcp: pip install "gradio[mcp]"') from None
    demo = _build(cache, offered, first)
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            share=share or None,  # None: where nothing else would reach it, as from a notebook on Colab
            theme=THEME,
            css=CSS,
            max_file_size=MAX_UPLOAD,
            mcp_server=mcp,
            ssr_mode=False,
            footer_links=["api", "settings"],
            state_session_capacity=MAX_SESSIONS,
            run_history=False,
            app_kwargs={"middleware": [Middleware(FirstLook, first)]},
        )
    except OSError as error:
        raise UserError(f"--port {port or 'from 7860'}: {error}") from None


def add_seed(tab: str, replace: bool) -> str:
    """JavaScript that adds a seed to a field of a tab, or puts it there alone; the tab is to be drawn anew."""
    together = "String(seed)" if replace else 'text.trim() ? text + "," + seed : String(seed)'
    return f"""(text, seed) => {{
        delete window.fastganDrawn?.["{tab}"];
        return {together};
    }}"""


def _build(cache: ModelCache, offered: list[str], first: First) -> gr.Blocks:
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT) as demo:
        with gr.Row():
            model = gr.Dropdown(
                offered,
                value=offered[0] if offered else None,
                allow_custom_value=True,
                label="Model",
                info="a Hub id such as user/fastgan-anime, or user/fastgan-anime@revision",
                scale=3,
                min_width=240,
                elem_id="model",
            )
            psi = gr.Slider(
                0,
                2,
                PSI,
                step=0.05,
                label="Truncation (psi)",
                info="1 is off; lower is less varied with fewer accidents",
                scale=2,
                min_width=200,
                elem_id="psi",
            )
        page = Page(cache, first, model, psi, {"model": model, "psi": psi})
        with gr.Row():
            about_model = gr.Markdown(HINT, elem_id="about-model")
            copy = gr.Button("Copy link", size="sm", min_width=110, scale=0, elem_id="copy-link")
        if os.getenv("OAUTH_CLIENT_ID"):
            sign_in = gr.LoginButton("Sign in for your private models", size="sm")
            sign_in.click(None, js=KEEP_WHOLE_QUERY, api_visibility="private")
        commit = gr.Textbox(visible="hidden", elem_id="commit")
        filled = gr.Checkbox(visible="hidden", label="The gallery holds what the page begins with")
        recent = gr.BrowserState([], storage_key="fastgan-recent-models", secret="not a secret")
        tab = page.linked("tab", gr.Textbox("sample", visible="hidden", elem_id="tab"))

        with gr.Tabs(selected="sample") as tabs:
            with gr.Tab("Sample", id="sample") as on_sample:
                sampled = sample_tab(page)
            with gr.Tab("Interpolate", id="interpolate") as on_interpolate:
                walked = interpolate_tab(page)
            with gr.Tab("Style mix", id="mix") as on_mix:
                mixed = mix_tab(page)
            with gr.Tab("Explore", id="explore") as on_explore:
                explored = explore_tab(page)
            with gr.Tab("About", id="about") as on_about:
                about_tab(page, sampled.picked)

        @endpoint
        def describe(model: str, recent: list[str], filled: bool, token: gr.OAuthToken | None = None):
            if not model:
                return HINT, "", gr.skip(), gr.skip(), False
            found = page.open(model, token)
            config = found.generator.config
            where = f" at `{found.revision[:10]}`" if found.revision else ""
            recent = [found.where, *(name for name in recent if name != found.where)][:RECENT]
            holds = filled and first.holds(found)
            choices = [*offered, *(name for name in recent if name not in offered)]
            text = f"**{found.name}**{where}: {config.width} × {config.height} pixels, latent of {config.z_dim}"
            return text, found.revision, recent, gr.Dropdown(choices=choices, value=found.where), holds

        def could_not_open(model: str) -> tuple[str, str]:
            name = model.replace("`", "")[:200]
            return f"`{name}` could not be opened. Type another, or press Enter in the box to try again.", ""

        def restore(request: gr.Request):
            values = read_address(page.link, request.query_params)
            chosen = values["tab"] = values.get("tab") if values.get("tab") in shown else "sample"
            pictures = first.gallery if first.is_asked(request.query_params) else []
            linked = (values.get(name, gr.skip()) for name in page.link)
            return [pictures or gr.skip(), bool(pictures), gr.Tabs(selected=chosen), *linked]

        opened = {
            "fn": describe,
            "inputs": [model, recent, filled],
            "outputs": [about_model, commit, recent, model, filled],
            "show_progress": "hidden",
            "api_visibility": "private",
            **QUICK,
        }
        then_draw = {"fn": None, "inputs": [tab, model, psi], "js": DRAW_HERE, "api_visibility": "private"}
        then_open = {"fn": None, "inputs": [filled, model], "js": OPENED, "api_visibility": "private"}

        begun = demo.load(
            restore,
            None,
            [sampled.pictures, filled, tabs, *page.link.values()],
            **QUIET,
        ).then(**opened)
        chosen = model.input(**opened)
        for asked in (begun, chosen):
            asked.success(**then_open).success(**then_draw)
            asked.failure(could_not_open, model, [about_model, commit], **QUIET)
        psi.change(**{**then_draw, "js": soon(DRAW_HERE)})
        shown = {
            "sample": on_sample,
            "interpolate": on_interpolate,
            "mix": on_mix,
            "explore": on_explore,
            "about": on_about,
        }
        for name, chosen in shown.items():
            chosen.select(None, None, tab, js=f"() => '{name}'", api_visibility="private").then(**then_draw)

        def send(button: gr.Button, there: str, field: gr.Textbox, replace: bool = False) -> None:
            add = add_seed(there, replace)
            button.click(None, [field, sampled.picked], field, js=add, api_visibility="private").then(
                lambda: (gr.Tabs(selected=there), there),
                None,
                [tabs, tab],
                **QUIET,
            ).then(**then_draw)

        send(sampled.to_interpolate, "interpolate", walked.keys)
        send(sampled.to_content, "mix", mixed.content)
        send(sampled.to_style, "mix", mixed.style)
        send(sampled.to_explore, "explore", explored.start, replace=True)
        gr.on(
            [component.change for component in page.link.values()],
            None,
            list(page.link.values()),
            js=write_address(page.link),
            api_visibility="private",
        )
        copy.click(None, [model, commit], js=COPY_LINK, api_visibility="private")
    tolerate_additions(demo)
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=2)
    return demo


# Presses the tab's own button, once for each model and truncation: coming back to a tab finds it as it was. Until the
# page has opened its model, tabs that show up draw nothing, or they would draw before the address has been read. The
# pictures that a page begins with come without drawing.
DRAW_HERE = f"""(tab, model, psi) => {{
    const drawn = window.fastganDrawn, wanted = model + " " + psi;
    if (!drawn || !model || drawn[tab] === wanted) return;
    drawn[tab] = wanted;{click_when_there("'draw-' + tab")}
}}"""
OPENED = f"""(filled, model) => {{
    window.fastganDrawn ??= filled ? {{sample: model + " {PSI:g}"}} : {{}};
}}"""

# The sign-in button appends the query to a target address unquoted, where only its first part would survive.
KEEP_WHOLE_QUERY = """() => {
    const query = encodeURIComponent(location.search.slice(1));
    if (query) history.replaceState(history.state, "", "?" + query);
}"""

# A copied link names the commit, so that it shows the same pictures after the model is trained further.
COPY_LINK = """(model, commit) => {
    const url = new URL(window.location.href);
    if (model) url.searchParams.set("model", commit ? model.split("@")[0] + "@" + commit : model);
    const button = document.getElementById("copy-link");
    const say = (text) => {
        button.textContent = text;
        clearTimeout(window.fastganSaid);
        window.fastganSaid = setTimeout(() => { button.textContent = "Copy link"; }, 1500);
    };
    // Browsers have no clipboard for pages that come over plain HTTP from another machine.
    const by_hand = () => window.prompt("Copy this link:", url.href);
    if (navigator.clipboard) navigator.clipboard.writeText(url.href).then(() => say("Copied"), by_hand);
    else by_hand();
}"""
