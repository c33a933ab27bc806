"""The whole page: a model above, tabs below, its state in the address."""

import os
from collections.abc import Callable, Sequence

import gradio as gr

from fastgan.app.common import QUICK, Page, click_when_there, endpoint, read_address, write_address
from fastgan.app.models import ModelCache
from fastgan.app.sample import sample_tab
from fastgan.errors import UserError
from fastgan.hub import from_pretrained
from fastgan.models import Generator

TITLE = "FastGAN"
MAX_WAITING = 200  # requests; the next visitor is told to come back
KEPT = (600, 3600)  # seconds: how often served files are cleaned up, and how old they get
MAX_UPLOAD = "20mb"
RECENT = 8  # models remembered in the visitor's own browser
THEME = gr.themes.Soft(primary_hue="violet", font=["ui-sans-serif", "system-ui", "sans-serif"])


def build_demo(
    load: Callable[..., Generator] = from_pretrained, models: Sequence[str] = (), allow_local: bool = False
) -> gr.Blocks:
    """The page, ready to launch.

    Args:
        load: called as `load(model, revision=..., token=...)`; gives a generator in eval mode.
        models: what the model box offers, the first one to begin with: Hub ids, "user/name@revision", run folders.
        allow_local: visitors may type folders too. For one's own machine only.
    """
    return _build(ModelCache(load, models, allow_local), list(models))


def launch(
    model: str = "",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    models: Sequence[str] = (),
    allow_local: bool = False,
    mcp: bool = False,
) -> None:
    """Serve the page until it is stopped.

    Args:
        model: Hub id or run folder to begin with.
        host: "0.0.0.0" to be reachable from other machines.
        port: the first free one from 7860 when not given.
        models: others that the model box offers.
        allow_local: visitors may type folders too. For one's own machine only.
        mcp: serve the actions as MCP tools as well.

    Raises:
        UserError: the model can't be opened, the port is taken, or the package `mcp` is missing.
    """
    offered = [name for name in (model, *models) if name]
    cache = ModelCache(given=offered, allow_local=allow_local)
    if model:
        cache.get(model)  # so that a wrong name is said here, and the first picture comes at once
    if mcp:
        try:
            import mcp as _  # noqa: F401
        except ImportError:
            raise UserError("--mcp needs the package mcp: pip install 'gradio[mcp]'") from None
    demo = _build(cache, offered)
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            max_file_size=MAX_UPLOAD,
            mcp_server=mcp,
            ssr_mode=False,
            footer_links=["api", "settings"],
        )
    except OSError as error:
        raise UserError(f"--port {port or 'from 7860'}: {error}") from None


def _build(cache: ModelCache, offered: list[str]) -> gr.Blocks:
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT) as demo:
        with gr.Row(equal_height=True):
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
                1,
                step=0.05,
                label="Truncation (psi)",
                info="1 is off; lower is less varied with fewer accidents",
                scale=2,
                min_width=200,
                elem_id="psi",
            )
            copy = gr.Button("Copy link", min_width=100, scale=0, elem_id="copy-link")
        page = Page(cache, model, psi, {"model": model, "psi": psi})
        about_model = gr.Markdown("Type a model's id above, and press Enter.", elem_id="about-model")
        if os.getenv("OAUTH_CLIENT_ID"):
            gr.LoginButton("Sign in for your private models", size="sm")
        commit = gr.Textbox(visible="hidden", elem_id="commit")
        recent = gr.BrowserState([], storage_key="fastgan-recent-models", secret="not a secret")
        tab = page.linked("tab", gr.Textbox("sample", visible="hidden", elem_id="tab"))

        with gr.Tabs(selected="sample") as tabs:
            with gr.Tab("Sample", id="sample") as on_sample:
                sample_tab(page)

        @endpoint
        def describe(model: str, recent: list[str], token: gr.OAuthToken | None = None):
            found = page.open(model, token)
            config = found.generator.config
            where = f" at `{found.revision[:10]}`" if found.revision else ""
            recent = [found.where, *(name for name in recent if name != found.where)][:RECENT]
            choices = [*offered, *(name for name in recent if name not in offered)]
            text = f"**{found.name}**{where}: {config.width} × {config.height} pixels, latent of {config.z_dim}"
            return text, found.revision, recent, gr.Dropdown(choices=choices, value=found.where)

        def restore(request: gr.Request):
            values = read_address(page.link, request.query_params)
            chosen = values.get("tab", "sample")
            return [gr.Tabs(selected=chosen), *(values.get(name, gr.skip()) for name in page.link)]

        opened = {
            "fn": describe,
            "inputs": [model, recent],
            "outputs": [about_model, commit, recent, model],
            "show_progress": "hidden",
            "api_visibility": "private",
            **QUICK,
        }
        draw_here = "(tab, model) => { if (!model) return;" + click_when_there("'draw-' + tab") + "}"
        then_draw = {"fn": None, "inputs": [tab, model], "js": draw_here, "api_visibility": "private"}

        demo.load(
            restore, None, [tabs, *page.link.values()], queue=False, show_progress="hidden", api_visibility="private"
        ).then(**opened).success(**then_draw)
        model.input(**opened).success(**then_draw)
        psi.release(**then_draw)
        on_sample.select(None, None, tab, js="() => 'sample'", api_visibility="private")
        gr.on(
            [component.change for component in page.link.values()],
            None,
            list(page.link.values()),
            js=write_address(page.link),
            api_visibility="private",
        )
        copy.click(None, commit, js=COPY_LINK, api_visibility="private")
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=2)
    return demo


# A copied link names the commit, so that it shows the same pictures after the model is trained further.
COPY_LINK = """(commit) => {
    const url = new URL(window.location.href);
    const model = url.searchParams.get("model");
    if (commit && model) url.searchParams.set("model", model.split("@")[0] + "@" + commit);
    navigator.clipboard.writeText(url.href);
    const button = document.getElementById("copy-link"), label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
}"""
