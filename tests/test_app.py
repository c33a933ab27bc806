"""The page as a person uses it, in a real browser, with models on the local Hub."""

import io
import json
import re
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image, ImageSequence

import fastgan
from fastgan.projection import decode_latent
from fastgan.sampling import draw, interpolate, mix_grid, seeded_inputs, to_pil, walk
from tests.app_server import app_running, make_model, pixels, push
from tests.browsers import needs_browser, visitor
from tests.sign_in import SignIn

pytestmark = needs_browser


def count_of(page, selector: str, number: int) -> None:
    page.wait_for_function("([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, number])


def picture_at(page, selector: str) -> np.ndarray:
    """The picture that the page shows, as the server gave it."""
    return pixels(urllib.request.urlopen(page.locator(selector).first.get_attribute("src")).read())


def facts(data: bytes | str) -> dict[str, str]:
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).text


def shown(page, selector: str = "#pictures .thumbnail-item img") -> list[np.ndarray]:
    return [pixels(urllib.request.urlopen(i.get_attribute("src")).read()) for i in page.locator(selector).all()]


def wait_for_film(page) -> dict:
    """What the browser's own decoder says of the film."""
    page.wait_for_function("() => { const v = document.querySelector('#film video'); return v && v.readyState >= 3; }")
    return page.eval_on_selector(
        "#film video", "v => ({duration: v.duration, width: v.videoWidth, height: v.videoHeight})"
    )


def unfold(page, title: str, field) -> None:
    """Open a part of the page, and wait for a field in it: Gradio sets what it holds a frame later."""
    page.get_by_text(title).click()
    field.wait_for()
    page.evaluate("() => new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(d))))")


def continue_late(page, late: list) -> None:
    """Let requests go on that a test has held back, once there are any."""
    while not late:
        page.wait_for_timeout(20)
    for route in late:
        route.continue_()


def upload(page, button: str, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(button).click()
    chooser.value.set_files(path)


def open_page(page, address: str) -> None:
    page.goto(address)
    count_of(page, "#pictures .thumbnail-item img", 16)
    page.wait_for_function("() => window.fastganDrawn")  # the model is described after its pictures are there


# ---------------------------------------------------------------------- sample


def test_pictures_are_there_when_the_page_opens_and_are_those_of_the_python_api(app, page, app_repo, app_home):
    open_page(page, app)
    loaded = fastgan.from_pretrained(app_home / "model")
    expected = [np.asarray(picture) for picture in loaded.sample(range(16))]
    assert all(np.array_equal(a, b) for a, b in zip(shown(page), expected, strict=True))
    assert not np.array_equal(expected[0], expected[1])
    assert app_repo in page.locator("#about-model").inner_text()


def test_the_first_look_is_seen_without_a_script_and_goes_when_the_gallery_is_there(app, page):
    late, drawings = [], []
    page.route("**/assets/index-*.js", lambda route: late.append(route))
    page.on("request", lambda request: drawings.append(request) if "queue/join" in request.url else None)
    page.goto(app, wait_until="commit")
    page.wait_for_function("() => document.querySelectorAll('#first-look img')[15]?.naturalWidth === 64")
    page.wait_for_timeout(200)
    assert page.locator("#pictures").count() == 0
    continue_late(page, late)
    count_of(page, "#pictures .thumbnail-item img", 16)
    page.wait_for_selector("#first-look", state="detached")
    page.wait_for_function("() => window.fastganDrawn")
    assert len(drawings) == 1  # the model was described, and nothing drawn


def test_who_acts_before_the_pictures_are_there_gets_the_page(app, page):
    late = []
    page.route("**/gradio_api/run/predict", lambda route: late.append(route))
    page.goto(app)
    page.wait_for_selector("#pictures")
    assert page.locator("#first-look").count() == 1
    page.keyboard.press("Tab")
    page.wait_for_selector("#first-look", state="detached")
    assert page.locator("#pictures img").count() == 0
    continue_late(page, late)
    count_of(page, "#pictures .thumbnail-item img", 16)


def test_each_picture_carries_how_to_draw_it_again(app, page, app_repo):
    open_page(page, app)
    link = page.locator("#pictures .thumbnail-item img").nth(3).get_attribute("src")
    info = facts(urllib.request.urlopen(link).read())
    assert link.endswith("fastgan-blobs-seed3.png")
    assert (info["fastgan:model"], info["fastgan:seed"], info["fastgan:psi"]) == (app_repo, "3", "1")
    assert len(info["fastgan:revision"]) == 40


def test_count_seed_and_dice(app, page, app_generator):
    open_page(page, app)
    page.get_by_label("First seed").fill("100")
    page.get_by_label("number input for How many").fill("3")
    page.get_by_role("button", name="Draw", exact=True).first.click()
    page.wait_for_selector("#pictures img[alt='seed 102']")
    count_of(page, "#pictures .thumbnail-item img", 3)
    # Leaving the number draws once more, and meanwhile the gallery grows anew.
    third = picture_at(page, "#pictures .thumbnail-item img[alt='seed 102']")
    assert np.array_equal(third, np.asarray(app_generator.sample([102])[0]))
    page.get_by_role("button", name="Roll the dice").click()
    page.wait_for_selector("#pictures img[alt='seed 102']", state="detached")
    rolled = int(page.get_by_label("First seed").input_value())
    page.wait_for_selector(f"#pictures img[alt='seed {rolled}']")
    for _ in range(2):  # there is nothing before the first one
        page.get_by_role("button", name="Back").click()
        page.wait_for_selector("#pictures img[alt='seed 102']")
        assert page.get_by_label("First seed").input_value() == "100"


def test_all_pictures_come_as_a_zip(app, page, app_generator):
    page.goto(f"{app}?count=2&seed=7")
    count_of(page, "#pictures .thumbnail-item img", 2)
    with page.expect_download() as download:
        page.get_by_role("button", name="All as ZIP").click()
    archive = zipfile.ZipFile(download.value.path())
    assert archive.namelist() == ["fastgan-blobs-seed7.png", "fastgan-blobs-seed8.png", "how.json"]
    assert np.array_equal(pixels(archive.read("fastgan-blobs-seed8.png")), np.asarray(app_generator.sample([8])[0]))
    assert json.loads(archive.read("how.json"))["seeds"] == [7, 8]


def test_a_clicked_picture_goes_to_the_other_tabs(app, page, app_generator):
    open_page(page, f"{app}?between=2")
    page.locator("#pictures .thumbnail-item").nth(5).click()
    page.wait_for_function("() => document.querySelector('#picked input').value === '5'")
    for button, tab, field, value, picture in (
        ("Mix as style", "mix", "Styles, across", "4-7,5", "#mixes img"),
        ("Mix as content", "mix", "Contents, down", "0-3,5", "#mixes img"),
        ("Interpolate", "interpolate", "Key seeds, in this order", "0-3,5", "#film video"),
        ("Explore", "explore", "Start at seed", "5", "#explored img"),
    ):
        if tab != "mix" or field == "Contents, down":  # at first the page is there, under the picture
            page.get_by_role("tab", name="Sample").click()
        page.get_by_role("button", name=button, exact=True).first.click()
        page.wait_for_function("tab => location.search.includes(`tab=${tab}`)", arg=tab)
        assert page.get_by_label(field).input_value() == value
        page.wait_for_selector(picture)
    assert np.array_equal(picture_at(page, "#explored img"), np.asarray(app_generator.sample([5])[0]))


def tab_to(page, control) -> None:
    """Press Tab until the control has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if control.evaluate("control => control === document.activeElement"):
            return
    raise AssertionError(f"{control} is not reached")


def test_the_page_is_used_with_the_keyboard_alone(app, page):
    open_page(page, app)
    tab_to(page, page.get_by_role("tab", name="Sample"))
    tab_to(page, page.get_by_label("First seed"))
    page.keyboard.press("Control+A")
    page.keyboard.type("30")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pictures img[alt='seed 45']")
    tab_to(page, page.get_by_label("number input for How many"))
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    tab_to(page, page.locator("#draw-sample"))
    page.keyboard.press("Enter")
    count_of(page, "#pictures .thumbnail-item img", 2)
    tab_to(page, page.locator("#pictures .thumbnail-item").first)
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#picked input').value === '30'")


def offered(page) -> list[str]:
    """What the model box offers."""
    page.locator("#model input").click()
    page.get_by_role("option").first.wait_for()
    return [name.strip().removeprefix("✓").strip() for name in page.get_by_role("option").all_inner_texts()]


def test_models_given_at_the_start_are_offered_and_recent_ones_remembered(
    app, page, browser, app_repo, app_other, app_hub, app_home
):
    name, second = app_other
    page.goto(f"{app}?count=1")
    page.wait_for_selector("#pictures img[alt='seed 0']")
    assert offered(page) == [app_repo, name]
    before = page.locator("#pictures img").first.get_attribute("src")
    page.get_by_role("option", name=name).click()
    page.wait_for_function("before => document.querySelector('#pictures img').src !== before", arg=before)
    assert np.array_equal(shown(page)[0], np.asarray(second.sample([0])[0]))
    assert name in page.locator("#about-model").inner_text()
    third = push(app_hub, app_home / "other", "fastgan-third")
    page.goto(f"{app}?count=1&model={third}")
    page.wait_for_selector("#pictures img[alt='seed 0']")
    page.goto(f"{app}?count=1")
    page.wait_for_selector("#pictures img[alt='seed 0']")
    assert offered(page) == [app_repo, name, third]
    with visitor(browser) as stranger:
        stranger.goto(f"{app}?count=1")
        stranger.wait_for_selector("#pictures img[alt='seed 0']")
        assert third not in offered(stranger)


# ---------------------------------------------------------------------- interpolate


def test_a_film_plays(app, page):
    page.goto(f"{app}?tab=interpolate&keys=1,2&between=60&fps=30&also=WebP")
    film = wait_for_film(page)
    assert film == {"duration": pytest.approx(4, abs=0.1), "width": 64, "height": 64}
    assert "120 frames" in page.locator("#film-told").inner_text()
    animation = page.locator("#second a").first.get_attribute("href")
    assert Image.open(io.BytesIO(urllib.request.urlopen(animation).read())).n_frames == 120


def test_a_film_goes_straight_with_a_held_style_and_comes_as_a_gif(app, page, app_generator):
    page.goto(f"{app}?tab=interpolate&keys=1,2&between=4&fps=4")
    wait_for_film(page)
    page.get_by_label("linear").check()
    page.get_by_text("Hold the style still").click()
    page.get_by_role("checkbox", name="64", exact=True).locator("visible=true").check()
    page.get_by_label("Seed of that style").fill("9")
    page.get_by_label("GIF", exact=True).check()
    page.locator("#draw-interpolate").click()
    page.wait_for_selector("#second a")
    assert all(part in page.url for part in ("path=linear", "held=64", "still=9", "also=GIF"))
    link = page.locator("#second a").first.get_attribute("href")
    with Image.open(io.BytesIO(urllib.request.urlopen(link).read())) as gif:
        drawn = np.stack([np.asarray(frame.convert("RGB"), float) for frame in ImageSequence.Iterator(gif)])
    z, noise = seeded_inputs(app_generator, [1, 2])
    still, _ = seeded_inputs(app_generator, [9])
    steps = walk(2, 4, loop=True)

    def off(*how) -> float:
        """How far the film is from the library's, whose colours a GIF only comes near to."""
        frames = torch.cat(list(interpolate(app_generator, z, noise, steps, *how))).permute(0, 2, 3, 1)
        return np.abs(drawn - frames.numpy()).mean()

    assert len(drawn) == 8
    right = off(False, still, {64: 1.0})
    assert right < min(off(True, still, {64: 1.0}), off(False, None))


# The page itself looks, and stops the film at the second frame that it shows: a test that asks from outside
# may come too late.
STOP_AT_THE_SECOND_FRAME = """
const shown = new Set();
new MutationObserver(() => {
    const frame = document.querySelector("#frame img");
    if (!frame?.offsetParent || shown.has(frame.src)) return;
    shown.add(frame.src);
    if (shown.size === 2) document.querySelector("#stop-interpolate").click();
}).observe(document, {subtree: true, childList: true, attributes: true});
"""


def test_a_film_is_watched_while_it_is_made_and_can_be_stopped(app, page, app_hub, tmp_path):
    make_model(tmp_path / "model", size=256, ngf=16)
    slow = push(app_hub, tmp_path / "model", "fastgan-slow")
    page.add_init_script(STOP_AT_THE_SECOND_FRAME)
    page.goto(f"{app}?model={slow}&tab=interpolate&keys=0-4&between=120")
    page.wait_for_function("() => document.querySelector('#film-told')?.innerText.includes('Stopped')")
    before = page.locator("#frame img").get_attribute("src")
    page.wait_for_timeout(1000)
    assert page.locator("#frame img").get_attribute("src") == before
    assert page.locator("#film video").count() == 0


# ---------------------------------------------------------------------- style mix


def test_the_mixing_grid_holds_the_mixes_of_the_library(app, page, app_generator):
    page.goto(f"{app}?tab=mix&content=0,1&style=4,5,6&one=1&other=6&amount=1")
    page.wait_for_selector("#pair img")
    z, noise = seeded_inputs(app_generator, [0, 1])
    style_z, _ = seeded_inputs(app_generator, [4, 5, 6])
    mixes = [np.asarray(to_pil(image[0])) for image in mix_grid(app_generator, z, noise, style_z)]
    page.wait_for_function("() => document.querySelector('#mixes img').naturalWidth === 18 + 4 * 66")
    sheet = picture_at(page, "#mixes img")
    for cell, mix in enumerate(mixes):
        top, left = 18 + (cell // 3 + 1) * 66, 18 + (cell % 3 + 1) * 66
        assert np.array_equal(sheet[top : top + 64, left : left + 64], mix)
    assert np.array_equal(picture_at(page, "#pair img"), mixes[5])


def test_the_pair_follows_its_slider_and_a_clicked_cell(app, page, app_generator):
    page.goto(f"{app}?tab=mix&content=0,1&style=4,5")
    page.wait_for_selector("#pair img")
    before = page.locator("#pair img").get_attribute("src")
    page.locator("#amount input[type=number]").fill("0")
    page.wait_for_function("before => document.querySelector('#pair img').src !== before", arg=before)
    assert np.array_equal(picture_at(page, "#pair img"), np.asarray(app_generator.sample([0])[0]))
    box = page.locator("#mixes img").bounding_box()
    middle = {"x": box["width"] / 2, "y": box["height"] / 2}  # of a sheet of 18 + 3 * 66 pixels a side
    page.locator("#mixes img").click(position={axis: place + 80 for axis, place in middle.items()})
    page.wait_for_function("() => location.search.includes('one=1') && location.search.includes('other=5')")


# ---------------------------------------------------------------------- a picture of one's own


def test_an_uploaded_picture_is_found_in_the_model_and_mixed(app, page, app_generator, tmp_path):
    app_generator.sample([777])[0].resize((80, 80)).save(tmp_path / "mine.jpg")
    page.goto(f"{app}?tab=mix&content=1&style=2")
    page.wait_for_selector("#pair img")
    steps = page.get_by_label("number input for Steps of the search")
    unfold(page, "A picture of your own", steps)
    steps.fill("20")
    upload(page, "#upload", tmp_path / "mine.jpg")
    page.wait_for_function("() => document.querySelector('#project-told').innerText.startsWith('Found')")
    code = page.locator("#code textarea, #code input").first.input_value()
    [image] = draw(app_generator, decode_latent(code, 32)[None], seeded_inputs(app_generator, [0])[1])
    assert np.array_equal(picture_at(page, "#projected img"), np.asarray(to_pil(image[0])))
    before = page.locator("#mixes img").get_attribute("src")
    page.get_by_role("button", name="Mix as content").last.click()
    page.wait_for_function("before => document.querySelector('#mixes img').src !== before", arg=before)
    assert page.get_by_label("Contents, down").input_value() == f"1,{code}"


def test_a_search_can_be_stopped(app, page, tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    page.goto(f"{app}?tab=mix")
    page.wait_for_selector("#pair img")
    steps = page.get_by_label("number input for Steps of the search")
    unfold(page, "A picture of your own", steps)
    steps.fill("400")
    upload(page, "#upload", tmp_path / "noise.png")
    page.wait_for_selector("#projected img")
    page.locator("#stop-project").click()
    page.wait_for_function("() => document.querySelector('#project-told').innerText.startsWith('Stopped')")
    before = page.locator("#projected img").get_attribute("src")
    page.wait_for_timeout(1500)
    assert page.locator("#projected img").get_attribute("src") == before


# ---------------------------------------------------------------------- explore


def test_sliders_move_the_picture_and_the_strip_shows_it_step_by_step(app, page, app_generator):
    page.goto(f"{app}?tab=explore&start=3&steps=3")
    page.wait_for_selector("#explored img")
    assert np.array_equal(picture_at(page, "#explored img"), np.asarray(app_generator.sample([3])[0]))
    count_of(page, "#strip .thumbnail-item img", 3)
    strip = shown(page, "#strip .thumbnail-item img")
    assert np.array_equal(strip[1], picture_at(page, "#explored img"))
    before = page.locator("#explored img").get_attribute("src")
    page.locator("#d1 input[type=number]").fill("3")
    page.wait_for_function("before => document.querySelector('#explored img').src !== before", arg=before)
    assert np.array_equal(picture_at(page, "#explored img"), strip[2])
    assert "d1=3" in page.url


def test_names_of_directions_are_saved_and_loaded(app, page, tmp_path):
    page.goto(f"{app}?tab=explore")
    page.wait_for_selector("#explored img")
    second = page.get_by_role("textbox", name="Direction 2")
    unfold(page, "Names of the directions", second)
    second.fill("smile")
    page.wait_for_function("() => document.querySelector('#d2').innerText.includes('smile')")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the names").click()
    download.value.save_as(tmp_path / "names.json")
    saved = json.loads((tmp_path / "names.json").read_text())
    assert saved["directions"] == {"2": "smile"}
    (tmp_path / "names.json").write_text(json.dumps({"directions": {"1": "glasses"}}))
    upload(page, "#load-names", tmp_path / "names.json")
    page.wait_for_function("() => document.querySelector('#d1').innerText.includes('glasses')")


# ---------------------------------------------------------------------- about


def test_the_card_is_shown_and_does_no_harm(app, page, app_hub, app_repo):
    page.goto(f"{app}?tab=about")
    page.wait_for_selector("#card h1")
    assert page.locator("#card strong").inner_text() == "bold"
    assert page.locator("#card a").first.get_attribute("rel") == "noopener noreferrer nofollow"
    file = page.locator("#card a", has_text="a file").get_attribute("href")
    assert re.fullmatch(re.escape(f"{app_hub.endpoint}/{app_repo}/blob/") + "[0-9a-f]{40}/samples.png", file)
    assert "${window.stolen = 5}" in page.locator("#card table").inner_text()
    page.get_by_text("press me").click()
    page.get_by_text("over everything").click()
    assert page.evaluate("window.stolen") is None
    for selector in ("script", "img", "form", "input", "div[style*=fixed]", "[onclick]", "[href^=javascript]"):
        assert page.locator(f"#card .prose {selector}, #card {selector}").count() == 0
    count_of(page, "#grids .thumbnail-item img", 1)
    page.get_by_role("button", name="Figures").click()
    page.get_by_text("blobs of paint").locator("visible=true").first.wait_for()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_text("batch_size").locator("visible=true").first.wait_for()


# ---------------------------------------------------------------------- links


def test_a_link_shows_the_same_pictures_to_somebody_else(app, browser, page):
    page.goto(f"{app}?seed=40&count=2&psi=0.7")
    count_of(page, "#pictures .thumbnail-item img", 2)
    page.get_by_label("First seed").fill("50")
    page.get_by_label("First seed").press("Enter")
    page.wait_for_selector("#pictures img[alt='seed 51']")
    assert "seed=50" in page.url
    with visitor(browser) as other:
        other.goto(page.url)
        other.wait_for_selector("#pictures img[alt='seed 51']")
        assert other.locator("#psi input[type=number]").input_value() == "0.7"
        assert all(np.array_equal(a, b) for a, b in zip(shown(page), shown(other), strict=True))


# For a second and a half the button says so.
WATCH_FOR_COPIED = """() => {
    const button = document.getElementById("copy-link");
    new MutationObserver(() => { window.saidCopied ||= button.textContent === "Copied"; })
        .observe(button, {childList: true, characterData: true, subtree: true});
}"""


def test_a_copied_link_names_the_commit(app, browser, app_repo, app_hub):
    with visitor(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{app}?seed=40&count=1")
        page.wait_for_selector("#pictures img[alt='seed 40']")
        page.evaluate(WATCH_FOR_COPIED)
        page.get_by_role("button", name="Copy link").click()
        page.wait_for_function("() => window.saidCopied")
        link = page.evaluate("navigator.clipboard.readText()")
        commit = HfApi(app_hub.endpoint).model_info(app_repo).sha
        assert parse_qs(urlsplit(link).query) == {"model": [f"{app_repo}@{commit}"], "seed": ["40"], "count": ["1"]}
        pictures = shown(page)
        page.goto(link)
        page.wait_for_selector("#pictures img[alt='seed 40']")
        assert np.array_equal(pictures[0], shown(page)[0])


# ---------------------------------------------------------------------- strangers


def complaint(page) -> str:
    """The one sentence in which the page says what is wrong."""
    return page.locator(".toast-body").first.inner_text()


def test_a_bad_model_id_is_said_in_the_page(app, page):
    open_page(page, app)
    box = page.locator("#model input")
    for typed, said in (("<b>no</b>", "is no Hub id"), ("tester/nothing", "no such model on the Hub")):
        box.fill(typed)
        box.press("Enter")
        page.get_by_text(said).first.wait_for()
    assert page.locator(".toast-body b").count() == 0
    assert page.locator("#pictures .thumbnail-item img").count() == 16


def test_an_oversized_upload_is_refused(app, page, tmp_path):
    (tmp_path / "big.png").write_bytes(bytes(21 * 10**6))
    page.goto(f"{app}?tab=mix")
    page.wait_for_selector("#pair img")
    unfold(page, "A picture of your own", page.locator("#upload"))
    upload(page, "#upload", tmp_path / "big.png")
    page.locator(".toast-body").first.wait_for()
    assert "size" in complaint(page)
    assert page.locator("#project-told").inner_text() == ""


# ---------------------------------------------------------------------- signing in, on a Space


def test_a_private_model_opens_for_who_signs_in_and_for_no_other_visitor(app_hub, app_home, app_generator, browser):
    repo = push(app_hub, app_home / "model", "secret", private=True)
    with SignIn("tester", app_hub.read_token) as provider:
        env = app_hub.env(app_home / "cache-space", token="") | provider.env()
        with app_running(env=env, log=app_home / "space.log") as address, visitor(browser) as mine:
            mine.goto(f"{address}?model={repo}&count=1&seed=5")
            mine.get_by_text("no such model on the Hub, or it is private").first.wait_for()
            mine.get_by_text("Sign in for your private models").click()
            mine.wait_for_selector("#pictures img[alt='seed 5']")
            assert np.array_equal(shown(mine)[0], np.asarray(app_generator.sample([5])[0]))
            with visitor(browser) as other:
                other.goto(f"{address}?model={repo}&count=1&seed=5")
                other.get_by_text("no such model on the Hub, or it is private").first.wait_for()
                assert other.locator("#pictures img").count() == 0


def test_a_model_that_can_not_be_opened_is_said_on_the_page_until_another_is(app, page, app_repo):
    page.goto(f"{app}?model=tester/nothing&tab=nonsense")
    page.get_by_text("tester/nothing could not be opened").wait_for()
    assert page.get_by_role("tab", name="Sample").get_attribute("aria-selected") == "true"
    page.get_by_label("Model").fill(app_repo)
    page.get_by_label("Model").press("Enter")
    page.get_by_text("could not be opened").wait_for(state="detached")
    page.wait_for_selector("#pictures img[alt='seed 0']")


def test_truncation_follows_the_keyboard_and_its_reset(app, page, app_generator):
    open_page(page, app)
    first = "#pictures .thumbnail-item img"
    for control, key, psi in (("input[type=range]", "ArrowLeft", 0.95), (".reset-button", "Enter", 1.0)):
        before = page.locator(first).first.get_attribute("src")
        page.locator(f"#psi {control}").press(key)
        page.wait_for_function(
            "([s, b]) => document.querySelector(s) && document.querySelector(s).src !== b", arg=[first, before]
        )
        count_of(page, first, 16)
        expected = [np.asarray(picture) for picture in app_generator.sample(range(16), psi=psi)]
        assert all(np.array_equal(a, b) for a, b in zip(shown(page), expected, strict=True))
