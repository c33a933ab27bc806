import html.parser
import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from fastgan import Generator, ModelConfig, TrainConfig, UserError, sampling
from fastgan.cli import main
from fastgan.hub import save_model
from fastgan.report import Line, _thinned, chart, write_report
from tests.browsers import needs_browser

SIZE = 32
VOID = {"meta", "img", "link", "br"}


class Reader(html.parser.HTMLParser):
    """Every address on the page, its text, and whether its tags close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder in the midst of training."""
    folder = tmp_path / "my-run"
    torch.manual_seed(0)
    generator = Generator(ModelConfig(SIZE, SIZE, z_dim=8, ngf=4)).eval()
    save_model(generator, folder)
    settings = TrainConfig(
        dataset="user/<faces>", size=str(SIZE), z_dim=8, ngf=4, batch_size=16, augment="color", recipe="paper"
    )
    (folder / "train_config.json").write_text(json.dumps(settings.to_dict()))
    (folder / "samples").mkdir()
    sheet = sampling.grid(torch.cat(list(sampling.sample(generator, range(16)))))
    for images in range(160, 160 * 21, 160):
        sheet.save(folder / "samples" / f"{images:010d}.png")
    sheet.save(folder / "samples.png")
    log = []
    for i in range(1, 401):
        line = {"images": 8 * i, "step": i, "seconds": float(i)}
        log.append({**line, "loss/d": 1.5, "loss/g": -0.5 + i / 400, "logits/real": 1.0, "images_per_second": 8.0})
        if i % 80 == 0:
            kid = [0.9, 0.3, 0.2, 0.4, 0.25][i // 80 - 1]
            log.append({**line, "kid": kid, "kid_std": 0.01, "recall": 0.3, "coverage": 0.4, "network": "net-1"})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


def test_the_page_needs_nothing_but_itself_and_says_what_the_run_is(run, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"Wrote {run / 'report.html'}\n"
    text = (run / "report.html").read_text()
    page = Reader(text)
    assert not page.open
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "<script" not in text and "url(" not in text and "http" not in text
    assert "trained on user/<faces> for 3.20 kimg in 6.7 min, recipe paper" in page.text
    assert "KID × 1000 250.0 ± 10.0, 0 is best" in page.text
    assert "Best KID × 1000 200.0 at 1.9 kimg" in page.text
    assert "fastgan sample my-run --seeds 0-63 --grid grid.png" in page.text
    assert "python train.py --resume my-run" in page.text
    assert str(run.parent) not in text  # no path of this machine


@needs_browser
def test_the_page_opens_in_a_browser_and_asks_for_nothing(run, page):
    sampling.to_pil(torch.zeros(3, 40, 60, dtype=torch.uint8)).save(run / "nearest.png")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    address = write_report(run).as_uri()
    page.goto(address)
    assert page.title() and page.locator("h1").count() == 1
    pictures = page.locator("img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    assert len(pictures) > 8 and all(pictures)
    assert all(box["width"] > 100 for box in (chart.bounding_box() for chart in page.locator("svg").all()))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_figures_of_a_network_that_taught_the_model_are_marked(run):
    assert " *" not in Reader(write_report(run).read_text()).text
    log = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(
        log.replace('"network": "net-1"', '"network": "net-1", "network_taught_model": true')
    )
    text = Reader(write_report(run).read_text()).text
    assert "KID × 1000 * 250.0" in text and "* it taught this model, so its figures flatter it" in text


def test_a_run_that_has_yet_to_grow_tells_the_size_it_draws(run):
    settings = json.loads((run / "train_config.json").read_text())
    (run / "train_config.json").write_text(json.dumps({**settings, "size": str(4 * SIZE), "grow_from": SIZE}))
    assert f"A generator of {SIZE}×{SIZE} pictures" in Reader(write_report(run).read_text()).text


def test_settings_that_differ_from_the_defaults_stand_out(run):
    text = write_report(run).read_text()
    changed = re.findall(r"<tr class=set><td><code>(.*?)</code></td><td>(.*?)</td>", text)
    assert ("--batch-size", "16") in changed and ("--augment", "color") in changed
    assert "--learning-rate" not in dict(changed) and "--learning-rate" in text


def test_grids_are_few_and_lie_closer_where_more_happens(run):
    text = write_report(run).read_text()
    times = [float(time) for time in re.findall(r"<figcaption>([\d.]+) kimg", text)]
    assert 6 <= len(times) <= 8
    assert (times[0], times[-1]) == (0.16, 3.2)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] < gaps[-1]


def test_warnings_nearest_pictures_and_measured_figures_are_on_the_page(run):
    with open(run / "log.jsonl", "a") as file:
        for i in range(3):
            line = {"images": 3300 + 100 * i, "step": 500, "seconds": 500.0, "kid": 0.6, "kid_std": 0.01}
            file.write(json.dumps(line) + "\n")
    result = {
        "network": "net-2",
        "network_taught_model": True,
        "resize": "somehow",
        "real_images": 12,
        "fake_images": 10,
        "fid": 12.345,
        "kid": 0.0123,
        "kid_std": 0.001,
        **dict.fromkeys(
            ("precision", "recall", "density", "coverage", "diversity", "near_share", "distance_ratio"), 0.5
        ),
    }
    found = {"results": [result], "seeds": "0-9", "weights_sha256": "of an older state"}
    (run / "metrics.json").write_text(json.dumps(found))
    sampling.to_pil(torch.zeros(3, 40, 60, dtype=torch.uint8)).save(run / "nearest.png")
    page = Reader(write_report(run).read_text())
    assert "Training has begun to overfit: KID rose from 0.2000 to 0.6000. The best is at 1.9 kimg" in page.text
    assert "10 drawn pictures (seeds 0-9) against 12 real ones. The model has been trained on since." in page.text
    assert "net-2 *" in page.text and "12.3 ± 1.0" in page.text and "its figures flatter it" in page.text
    assert "New pictures, or copies?" in page.text


def test_a_run_that_has_only_begun_has_a_page_too(run):
    for file in [*(run / "samples").iterdir(), run / "samples.png", run / "log.jsonl", run / "model.safetensors"]:
        file.unlink()
    page = Reader(write_report(run).read_text())
    assert "for 0.00 kimg in 0 s" in page.text and "Curves" not in page.text


def test_what_is_no_run_folder_is_said(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no run folder (it has no train_config.json)" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert main(["report", str(tmp_path / "file")]) == 2


# Charts


def ys(svg: str, number: int = 0) -> list[float]:
    points = re.search(rf'<polyline class="line c{number}" points="(.*?)"', svg)[1]
    return [float(point.split(",")[1]) for point in points.split()]


def test_a_curve_goes_where_its_values_go():
    svg = chart([Line("a", [(0, 0), (1, 5), (2, 10)]), Line("b", [(0, 10), (2, 0)])])
    first, second = ys(svg), ys(svg, 1)
    assert first[0] > first[1] > first[2]  # up on the page is down in y
    assert first[1] == pytest.approx((first[0] + first[2]) / 2)
    assert (first[0], first[2]) == (second[1], second[0])


def test_a_wide_range_above_zero_is_logarithmic_where_that_is_asked_for():
    line = Line("kid", [(1, 1000), (2, 100), (3, 10)])
    even = ys(chart([line], logarithmic=True))
    assert even[1] - even[0] == pytest.approx(even[2] - even[1], abs=0.2)
    plain = ys(chart([line]))
    assert plain[1] - plain[0] > 5 * (plain[2] - plain[1])
    below_zero = chart([Line("kid", [(1, 1000), (2, -1)])], logarithmic=True)
    assert "nan" not in below_zero and len(ys(below_zero)) == 2


@pytest.mark.parametrize("points", [[(0, 0)], [(5, 3.0)], [(1, 2.0), (2, 2.0)], [(1, -1e-9), (2, 1e9)]])
def test_odd_values_still_make_a_chart(points):
    svg = chart([Line("a", points, marks=True)], circle=points[0])
    assert all(0 <= y <= 230 for y in ys(svg))
    assert "best: " in svg


def test_long_curves_are_thinned_and_keep_their_range():
    svg = chart([Line("a", [(i, i % 2) for i in range(5000)])])
    assert len(ys(svg)) <= 120
    assert "band" in svg
    spike = _thinned(Line("a", [(i, 12.0 * (i == 70)) for i in range(240)]))
    assert min(low for low, _ in spike.band) == 0 and max(high for _, high in spike.band) == 12


def test_kid_of_pictures_of_two_sizes_makes_two_curves(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    log = [line | {"level": SIZE // 2 if line["images"] < 2000 else SIZE} for line in log]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    text = write_report(run).read_text()
    assert "KID × 1000 at 16 pixels" in text and "KID × 1000 at 32 pixels" in text
    assert "best: 250" in text  # 200 was of smaller pictures
