"""One page per run, `report.html`, that needs nothing else: pictures, curves, figures, settings, how to go on."""

import base64
import dataclasses
import io
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from PIL import Image

from fastgan import __version__, watch
from fastgan.config import GROUPS, LOCAL, ModelConfig, TrainConfig, flag, is_here
from fastgan.errors import UserError
from fastgan.files import (
    BEST,
    CONFIG_FILE,
    LOG_FILE,
    METRICS_FILE,
    NEAREST_FILE,
    RECONSTRUCTION_FILE,
    REPORT_FILE,
    SAMPLES,
    SAMPLES_FILE,
    SETTINGS_FILE,
    quoted,
    read_json,
    write_text,
)
from fastgan.hub import weights_hash
from fastgan.models import parameters_of

GRIDS = 8  # sample grids shown, from first to last
GRID_SIDE = 640  # pixels: wider grids are shown smaller
POINTS = 120  # of a curve; more are averaged, with a band from lowest to highest
WIDTH, HEIGHT = 520, 230  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 34  # room around the curves
CHARTS = (  # title, what it says, figures that begin so; what no chart names gets one of its own
    ("Losses", "D's and G's should both stay away from zero.", ("loss/",)),
    ("Logits", "What D says of real and of drawn pictures; the wider the gap, the easier its job.", ("logits/",)),
    (
        "Overfitting of D",
        "1 where it recognises every training picture as real, 0 where it guesses.",
        ("d_overfitting",),
    ),
    ("Images per second", "Real pictures shown to D, evaluations and saving left out.", ("images_per_second",)),
)
NO_CURVE = {"images", "step", "seconds", "level"}


class Line(NamedTuple):
    """A curve: what it is called, and its points (x, y) in order of x."""

    name: str
    points: list[tuple[float, float]]
    band: list[tuple[float, float]] = []  # the lowest and the highest that each y may be; drawn
    marks: bool = False  # a dot on every point, with its values as a tooltip


def write_report(folder: str | os.PathLike) -> Path:
    """Write report.html into a run folder, from what is in it; quick enough for every checkpoint.

    Args:
        folder: a run folder, finished or not.

    Returns:
        The file.

    Raises:
        UserError: it is no run folder, or the file can't be written.
    """
    folder = Path(folder)
    log = watch.read_log(folder / LOG_FILE)
    saved = folder / SETTINGS_FILE
    if not saved.is_file():
        raise UserError(f"{folder}: no run folder (it has no {SETTINGS_FILE})")
    settings = TrainConfig.of_run(read_json(saved), str(saved))
    template = resources.files("fastgan").joinpath("templates", "report.html").read_text(encoding="utf-8")
    templates = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = templates.from_string(template).render(**_facts(folder, settings, log), version=__version__)
    write_text(folder / REPORT_FILE, text)
    return folder / REPORT_FILE


def _facts(folder: Path, settings: TrainConfig, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the template asks for."""
    measured = watch.evaluations(log)
    best = watch.best_of(measured)
    last = log[-1] if log else {"images": 0, "seconds": 0.0}
    where = folder.name if folder.is_absolute() else str(folder)
    drawn = folder / CONFIG_FILE  # a run that has yet to grow draws smaller pictures than its settings say
    model = ModelConfig.from_dict(read_json(drawn)) if drawn.is_file() else settings.model
    has_best = (folder / BEST / CONFIG_FILE).is_file()
    return {
        "name": folder.resolve().name,
        "dataset": _name_of(settings.dataset),
        "settings": settings,
        "size": f"{model.width}×{model.height}",
        "kimg": f"{last['images'] / 1000:,.2f}",
        "time": _minutes(last["seconds"]),
        "parameters": parameters_of(model),
        "tiles": _tiles(log, measured, best),
        "remarks": list(watch.remarks(log, has_best).values()),
        "grid": _embed(folder / SAMPLES_FILE, 2 * GRID_SIDE),
        "grids": _grids(folder / SAMPLES, log),
        "charts": [*_evaluation_charts(measured, best), *_training_charts(log)],
        "figures": _figures(folder),
        "measured": measured[-1] if measured else None,
        "nearest": _embed(folder / NEAREST_FILE, 2 * GRID_SIDE),
        "reconstruction": _embed(folder / RECONSTRUCTION_FILE, 2 * GRID_SIDE) if measured or log else None,
        "groups": _settings_groups(settings),
        "best": best if has_best else None,
        "commands": _commands(where, settings, best, last, has_best),
    }


# ----------------------------------------------------------------------------------------------------------- pictures


def _embed(path: Path, most: int) -> dict[str, Any] | None:
    """A picture as a data address with its size, at most so many pixels wide; None where there is no such file."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA" if file.has_transparency_data else "RGB")
    except OSError:
        return None
    if image.width > most:
        image = image.resize((most, round(image.height * most / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=2)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/webp;base64,{data}", "width": image.width, "height": image.height}


def grids_in(folder: Path) -> dict[int, Path]:
    """The sample grids in a folder by how many pictures had been seen."""
    return {int(path.stem): path for path in folder.glob(10 * "[0-9]" + ".png")}


def _grids(folder: Path, log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sample grids over time with captions; early ones closer together, since most happens then."""
    files = grids_in(folder)
    times = sorted(files)
    if len(times) > GRIDS:
        ratio = (times[-1] / max(1, times[0])) ** (1 / (GRIDS - 1))
        wanted = [max(1, times[0]) * ratio**i for i in range(GRIDS)]
        times = sorted({min(times, key=lambda time, at=at: abs(math.log(max(1, time) / at))) for at in wanted})
    found = []
    for time in times:
        seconds = next((line["seconds"] for line in log if line["images"] >= time), None)
        caption = f"{time / 1000:.2f} kimg" + (f" · {_minutes(seconds)}" if seconds is not None else "")
        if embedded := _embed(files[time], GRID_SIDE):
            found.append({**embedded, "caption": caption})
    return found


# ------------------------------------------------------------------------------------------------------------- curves


def _evaluation_charts(measured: Sequence[Mapping], best: Mapping | None) -> list[dict[str, Any]]:
    if not measured:
        return []
    last = measured[-1]
    with_what = (
        f"{last.get('network', '')}, {last.get('fake_images', '?')} drawn against {last.get('real_images', '?')} real "
        f"pictures, resized {last.get('resize', '')}"
    )
    if last.get("network_taught_model"):
        with_what += "; * it taught this model, so its figures flatter it"
    levels = list(dict.fromkeys(line.get("level") for line in measured))
    kids = []
    for level in levels:
        lines = [line for line in measured if line.get("level") == level]
        name = "KID × 1000" + (f" at {level} pixels" if len(levels) > 1 else "")
        points = [(line["images"] / 1000, 1000 * line["kid"]) for line in lines]
        errors = [1000 * line.get("kid_std", 0) for line in lines]
        band = [(kid - error, kid + error) for (_, kid), error in zip(points, errors, strict=True)]
        kids.append(Line(name, points, band, marks=True))
    shares = [
        Line(name, [(line["images"] / 1000, line[name]) for line in measured if name in line], marks=True)
        for name in ("precision", "recall", "coverage", "diversity")
    ]
    shares = [line for line in shares if line.points]
    circle = (best["images"] / 1000, 1000 * best["kid"])
    charts = [
        _panel("KID × 1000", f"Lower is better. {with_what}.", kids, chart(kids, logarithmic=True, circle=circle)),
    ]
    if shares:
        says = "Precision: drawn pictures that look real. Recall and coverage: real ones that are drawn, or nearly."
        charts.append(_panel("How real, how varied", says, shares, chart(shares, low=0, high=1)))
    return charts


def _training_charts(log: Sequence[Mapping]) -> list[dict[str, Any]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        if "kid" in line:
            continue
        for name, value in line.items():
            if name not in NO_CURVE and type(value) in (int, float) and math.isfinite(value):
                curves.setdefault(name, []).append((line["images"] / 1000, value))
    charts = []
    for title, says, names in CHARTS:
        chosen = [name for name in curves if any(name.startswith(start) for start in names)]
        if chosen:
            lines = [Line(name.partition("/")[2] or name.replace("_", " "), curves.pop(name)) for name in chosen]
            charts.append(_panel(title, says, lines, chart(lines, low=0 if names == ("images_per_second",) else None)))
    for name, points in curves.items():
        line = Line(name, points)
        charts.append(_panel(name.replace("_", " ").capitalize(), "", [line], chart([line])))
    return charts


def _panel(title: str, says: str, lines: Sequence[Line], svg: str) -> dict[str, Any]:
    legend = [line.name for line in lines] if len(lines) > 1 else []
    return {
        "title": title,
        "says": says,
        "svg": svg,
        "legend": legend,
        "last": [_short(x.points[-1][1]) for x in lines],
    }


def chart(
    lines: Sequence[Line],
    low: float | None = None,
    high: float | None = None,
    logarithmic: bool = False,
    circle: tuple[float, float] | None = None,
) -> str:
    """Curves as an SVG that takes its colours from the page: classes `c0`, `c1` ... for the lines.

    Args:
        lines: each with at least one point.
        low, high: values that the vertical axis must reach.
        logarithmic: where all values are above 0 and span more than a factor of 8.
        circle: a point to mark as the best.
    """
    lines = [_thinned(line) for line in lines]
    middle = [y for line in lines for _, y in line.points]
    values = middle + [y for line in lines for ends in line.band for y in ends]
    values += [value for value in (low, high) if value is not None]
    logarithmic = logarithmic and min(middle) > 0 and max(middle) > 8 * min(middle)
    if logarithmic:
        y_ticks = _decades(min(middle), max(middle))
        bottom, top = min(y_ticks[0], min(middle)), max(y_ticks[-1], max(middle))
    else:
        y_ticks = _ticks(min(values), max(values), 4)
        bottom, top = min(y_ticks[0], min(values)), max(y_ticks[-1], max(values))
    end = max(x for line in lines for x, _ in line.points) or 1.0
    scale: Callable[[float], float] = (lambda y: math.log(max(y, bottom))) if logarithmic else (lambda y: y)

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / end

    def at_y(y: float) -> float:
        share = (scale(y) - scale(bottom)) / ((scale(top) - scale(bottom)) or 1)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{", ".join(line.name for line in lines)}">']
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in _ticks(0, end, 6):
        if tick <= end * 1.001:
            x = at_x(tick)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_short(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">kimg</text>')
    for number, line in enumerate(lines):
        if any(low < high for low, high in line.band):
            ends = [
                (at_x(x), at_y(low), at_y(high)) for (x, _), (low, high) in zip(line.points, line.band, strict=True)
            ]
            upper = [f"{x:.1f},{high:.1f}" for x, _, high in ends]
            lower = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(ends)]
            parts.append(f'<polygon class="band c{number % 5}" points="{" ".join(upper + lower)}"/>')
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line c{number % 5}" points="{path}"/>')
        if line.marks or len(line.points) == 1:
            for x, y in line.points:
                tip = f"{line.name} {_short(y)} at {x:.1f} kimg"
                parts.append(
                    f'<circle class="dot c{number % 5}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3">'
                    f"<title>{tip}</title></circle>"
                )
    if circle is not None:
        x, y = at_x(circle[0]), at_y(circle[1])
        side, shift = ("end", 8) if x > WIDTH - 100 else ("middle", 0)
        parts.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        label = y + 20 if y + 24 < HEIGHT - BOTTOM else y - 12
        parts.append(
            f'<text class="best" x="{x + shift:.1f}" y="{label:.1f}" text-anchor="{side}">'
            f"best: {_short(circle[1])}</text>"
        )
    return "".join([*parts, "</svg>"])


def _thinned(line: Line) -> Line:
    """A curve of at most `POINTS` points, means of neighbours between the lowest and the highest of them.

    One that has a band or marks of its own stays as it is.
    """
    size = -(-len(line.points) // POINTS)
    if size <= 1 or line.band or line.marks:
        return line
    points, band = [], []
    for start in range(0, len(line.points), size):
        part = line.points[start : start + size]
        ys = [y for _, y in part]
        points.append((sum(x for x, _ in part) / len(part), sum(ys) / len(ys)))
        band.append((min(ys), max(ys)))
    return line._replace(points=points, band=band)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from at or below `low` to at or above `high`; the powers alone if many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in ((1, 2, 5) if len(powers) <= 3 else (1,))]
    below = [tick for tick in ticks if tick <= low]
    above = [tick for tick in ticks if tick >= high]
    return [tick for tick in ticks if below[-1] <= tick <= (above[0] if above else tick)]


def _short(value: float) -> str:
    """A number in as few characters as tell it apart."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# ----------------------------------------------------------------------------------------------------------- in words


def _tiles(log: Sequence[Mapping], measured: Sequence[Mapping], best: Mapping | None) -> list[dict[str, str]]:
    tiles = []
    if best is not None:
        last = measured[-1]
        mark = " *" if last.get("network_taught_model") else ""
        tiles.append(
            _tile(
                f"KID × 1000{mark}", f"{1000 * last['kid']:.1f}", f"± {1000 * last.get('kid_std', 0):.1f}, 0 is best"
            )
        )
        if best["images"] != last["images"]:
            tiles.append(_tile("Best KID × 1000", f"{1000 * best['kid']:.1f}", f"at {best['images'] / 1000:.1f} kimg"))
        for name, says in (("recall", "real ones that it can draw"), ("coverage", "real ones with one drawn nearby")):
            if name in last:
                tiles.append(_tile(name.capitalize(), f"{last[name]:.2f}", says))
        if "near_share" in last:
            tiles.append(_tile("Copies", f"{100 * last['near_share']:.0f} %", "5 % would be chance"))
    rates = [line["images_per_second"] for line in log if "images_per_second" in line]
    if rates:
        tiles.append(_tile("Images per second", _short(statistics.median_high(rates)), "median, in training"))
    return tiles


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _figures(folder: Path) -> dict[str, Any] | None:
    """metrics.json as a table, and whether the model has changed since; None where `fastgan evaluate` never ran."""
    from fastgan.evaluation import figure, rows_of

    try:
        found = read_json(folder / METRICS_FILE)
        results, shown = found["results"], rows_of(found.get("training_pictures", True))
        rows = [(label, [figure(result, key) for result in results], meaning) for label, key, meaning in shown]
        return {
            "networks": [(r["network"], r["network_taught_model"], r["resize"]) for r in results],
            "rows": rows,
            "drawn": f"{results[0]['fake_images']:,} drawn pictures (seeds {found['seeds']}) against "
            f"{results[0]['real_images']:,} real ones",
            "older": found["weights_sha256"] != weights_hash(folder),
        }
    except (UserError, KeyError, TypeError, IndexError):
        return None


def _settings_groups(settings: TrainConfig) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Title and flags of each group, with value and whether it is another than the default."""
    groups: dict[str, list[tuple[str, str, bool]]] = {name: [] for name in GROUPS}
    usual = TrainConfig(dataset=settings.dataset, recipe=settings.recipe)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None or field.name in LOCAL:
            continue
        if field.name == "dataset":
            value = _name_of(value)
        shown = {True: "on", False: "off"}.get(value, value) if type(value) is bool else value
        changed = value != getattr(usual, field.name) or field.name == "dataset"
        groups[field.metadata["group"]].append((flag(field.name), str(shown), changed))
    return [(title, groups[name]) for name, title in GROUPS.items() if groups[name]]


def _commands(
    run: str, settings: TrainConfig, best: Mapping | None, last: Mapping, has_best: bool
) -> list[tuple[str, str]]:
    model = f"{run}/best" if has_best and best is not None and best["images"] < last["images"] else run
    model, run = quoted(model), quoted(run)
    longer = f" --max-minutes {settings.max_minutes:g}" if settings.max_minutes else ""
    if settings.max_steps and last["images"] >= settings.max_steps * settings.batch_size:
        longer += f" --max-steps {2 * settings.max_steps}"
    if last["images"] >= 1000 * settings.duration_kimg:
        longer += f" --duration-kimg {2 * settings.duration_kimg:g}"
    return [
        ("Draw more pictures", f"fastgan sample {model} --seeds 0-63 --grid grid.png"),
        ("Play with it in a browser", f"fastgan app {model}"),
        ("Film a walk between pictures", f"fastgan interpolate {model} --seeds 1,2,3,4 --loop --out walk.mp4"),
        ("Mix styles", f"fastgan mix {model} --content 0-3 --style 4-9 --out mix.png"),
        ("Measure it thoroughly", f"fastgan evaluate {model}"),
        ("Train longer", f"python train.py --resume {run}{longer}"),
        ("Publish it", f"fastgan push {run} user/name"),
    ]


def _name_of(dataset: str) -> str:
    """A dataset's name; of one on this disk, its last part and never the way there."""
    return Path(dataset).name if os.path.isabs(dataset) or is_here(dataset) else dataset


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
