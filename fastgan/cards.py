"""Cards: what a run or a folder of pictures is, told from its own facts, in a README.md that may be edited by hand."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import CardData, DatasetCardData, EvalResult, ModelCard, ModelCardData, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from yaml import YAMLError

import fastgan
from fastgan import watch
from fastgan.checkpoints import best_of_run, newest_state
from fastgan.config import LOCAL, ModelConfig, TrainConfig
from fastgan.errors import UserError
from fastgan.evaluation import OF_COPIES
from fastgan.files import (
    BEST,
    CARD_FILE,
    CONFIG_FILE,
    IMPORT_FILE,
    LOG_FILE,
    METRICS_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    SETTINGS_FILE,
    STYLE_MIX_FILE,
    WALK_FILE,
    WEIGHTS_FILE,
    as_json,
    read_json,
    write_file,
    write_json,
    write_text,
)
from fastgan.hub import weights_hash
from fastgan.models import parameters_of

SAMPLE_SEEDS, CONTENT_SEEDS, STYLE_SEEDS, WALK_SEEDS = range(16), range(4), range(4, 10), range(6)
TAGS = ["fastgan", "gan", "few-shot-image-generation", "image-generation"]
BEGIN = "<!-- fastgan:begin. From here to fastgan:end each push writes anew; what stands above and below is kept. -->"
END = "<!-- fastgan:end -->"
SECTION = re.compile(r"<!-- fastgan:begin\b.*?<!-- fastgan:end -->", re.DOTALL)
DATASET_KINDS = {"folder": "a folder", "zip": "a .zip", "parquet": "parquet files", "saved": "a saved dataset"}
KINDS_OF_PICTURE = {1: "grey", 3: "RGB", 4: "RGBA with real transparency"}

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "hub_cards"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
    autoescape=False,
)


class Measured(NamedTuple):
    """One figure about a model, and all that it takes to compare it with another."""

    kind: str  # "kid", "fid", ...: the metric's id
    name: str  # how a table calls it
    value: float
    text: str  # the value as it is printed
    pictures: str  # how many of which
    network: str  # whose features
    taught: bool | None  # whether that network also taught the model; None where nobody knows
    source: Mapping[str, Any]  # facts about the pictures it was compared with


# ---------------------------------------------------------------------- what a run notes down


def write_run_facts(
    folder: Path,
    source: Mapping[str, Any],
    hardware: str,
    base: Mapping[str, Any] | None,
    fingerprint: str | None = None,
) -> None:
    """Note in a run folder what only the run itself knows.

    Args:
        folder: of the run.
        source: facts about the pictures, as :class:`fastgan.data.Pictures` has them.
        hardware: what it trains on, in words.
        base: where a fine-tuned model starts: "model" and, on the Hub, "revision"; None when from nothing, or when
            noted down before.
        fingerprint: of the pictures; None for a stream.
    """
    base = base or run_facts(folder).get("base")  # a run that continues does not look for it again
    facts = {
        "fastgan": fastgan.__version__,
        "torch": torch.__version__.partition("+")[0],
        "hardware": hardware,
        "dataset": dict(source),
        "base": dict(base) if base else None,
        "fingerprint": fingerprint,
    }
    write_json(folder / RUN_FILE, facts)


def public_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of a run as others may see them: no path of this machine, nothing about where it ran."""
    if not (folder / SETTINGS_FILE).is_file():
        return None
    saved, facts = read_json(folder / SETTINGS_FILE), run_facts(folder)
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in LOCAL]
    settings = {name: saved[name] for name in names if name in saved}  # those of an older version too
    source = facts.get("dataset")
    if not source or source["kind"] != "hub":
        settings["dataset"] = _shown_name(source["dataset"] if source else Path(saved["dataset"]).name)
    if settings.get("init_from"):
        base = facts.get("base") or {}
        settings["init_from"] = "@".join(str(base[key]) for key in ("model", "revision") if base.get(key)) or None
    return settings


def public_log(folder: Path) -> str:
    """A run's log.jsonl with its numbers alone; empty when there is none."""
    lines = [
        {k: v for k, v in line.items() if isinstance(v, int | float)} for line in watch.read_log(folder / LOG_FILE)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def public_metrics(path: Path) -> str:
    """An evaluation's metrics.json, with the dataset named as strangers may see it."""
    found = read_json(path)
    found["dataset"]["dataset"] = _shown_name(found["dataset"]["dataset"])
    return as_json(found)


def run_facts(folder: Path) -> dict[str, Any]:
    """What a run noted down; nothing where there is no such file."""
    return read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}


def _shown_name(name: str) -> str:
    """A folder's name for strangers; not that of somebody's home, which is the user's own."""
    return "pictures" if name in ("", Path.home().name) else name


# ---------------------------------------------------------------------- the card of a model


def render_model_card(
    folder: Path,
    repo: str | None = None,
    existing: str | None = None,
    license: str | None = None,
    best: bool = False,
    nearest: bool = False,
    networks: bool = True,
) -> str:
    """The card of a run folder or an imported model, as README.md.

    Args:
        folder: with config.json; whatever else is known is read from the other files in it.
        repo: Hub id the card is for; a made-up one stands in the examples when not given.
        existing: the card that is there already. What stands outside this library's section is kept, and so is
            metadata that this library does not write.
        license: of the model, for the metadata; else what `existing` says, or what an imported model came with.
        best: the weights are those in best/.
        nearest: show the training pictures that drawn ones come nearest to.
        networks: the raw generator and the discriminator of these weights are there too.

    Raises:
        UserError: the folder holds no model.
    """
    config = ModelConfig.from_dict(read_json(folder / CONFIG_FILE))
    facts, settings = run_facts(folder), public_settings(folder)
    source, base = facts.get("dataset"), facts.get("base") or {}
    imported = read_json(folder / IMPORT_FILE) if (folder / IMPORT_FILE).is_file() else None
    results = _measured(folder, source, best)
    title = (repo or folder.resolve().name).rpartition("/")[2]
    section = _templates.get_template("model.md").render(
        repo=repo or f"user/{title}",
        width=config.width,
        height=config.height,
        kind_of_picture=KINDS_OF_PICTURE[config.channels],
        parameters=parameters_of(config),
        gates=config.gates,
        anchors=config.anchors,
        anchor_dim=config.anchor_dim,
        files=[name for name in (SAMPLES_FILE, STYLE_MIX_FILE, WALK_FILE) if (folder / name).is_file()],
        networks=networks,
        nearest=nearest,
        content_seeds=_span(CONTENT_SEEDS),
        style_seeds=_span(STYLE_SEEDS),
        walk_seeds=_span(WALK_SEEDS),
        base_model=_base_sentence(base),
        source=source,
        source_sentence=_source_sentence(source) if source else "",
        preparation=_preparation(settings) if settings else "",
        imported=imported,
        training=_training(folder, best),
        settings=settings or {},
        hardware=facts.get("hardware"),
        version=facts.get("fastgan", fastgan.__version__),
        torch=facts.get("torch"),
        results=results,
    )
    data = ModelCardData(
        license=license,
        library_name="fastgan",
        pipeline_tag="unconditional-image-generation",
        tags=TAGS,
        datasets=[source["dataset"]] if source and source["kind"] == "hub" else None,
        base_model=base["model"] if base.get("revision") else None,
        thumbnail=hf_hub_url(repo, SAMPLES_FILE) if repo else None,
        model_name=title,
        eval_results=[_eval_result(result) for result in results] or None,
    )
    unknown = (imported or {}).get("license", "unknown")
    ours = data.to_dict()
    ours.pop("model_name", None)
    return _merge(ours, title, section, existing, None if unknown == "unknown" else unknown)


def _merge(
    ours: dict[str, Any],
    title: str,
    section: str,
    existing: str | None,
    license: str | None = None,
    replaced: Collection[str] = (),
) -> str:
    """A whole card of our metadata and section, and of what is kept of the existing one: not what is `replaced`."""
    section = f"{BEGIN}\n\n{section.strip()}\n\n{END}"
    kept, text = _read_card(existing or "")
    kept = {name: value for name, value in kept.items() if name not in replaced}
    if before := SECTION.search(text):  # what an earlier push said of an earlier model
        for name in ("base_model", "datasets"):
            values = kept.pop(name, None) or []
            values = values if isinstance(values, list) else [values]
            if left := [value for value in values if str(value) not in before[0]]:
                kept[name] = left
        text = SECTION.sub(lambda _: section, text, count=1)
    elif not text.strip():
        text = f"\n# {title}\n\n{section}\n"
    # Otherwise somebody wrote a card of their own and wants nothing of ours in it.
    tags = kept.get("tags") or []
    tags = [tags] if isinstance(tags, str) else [tag for tag in tags if isinstance(tag, str)]
    ours["tags"] = [*tags, *(tag for tag in ours["tags"] if tag not in tags)]
    merged = {**({"license": license} if license else {}), **kept, **ours}
    theirs = [result for result in _results_of(kept) if "fastgan" not in (result.metric_args or {})]
    mine = _results_of(ours)
    merged.pop("model-index", None)
    if theirs or mine:
        merged |= ModelCardData(model_name=title, eval_results=[*theirs, *mine]).to_dict()
    yaml = CardData(**merged).to_yaml(original_order=list(merged))
    return f"---\n{yaml}\n---\n{text}"


def _read_card(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card; no metadata where it can't be read."""
    try:
        found = ModelCard(card, ignore_metadata_errors=True) if card.lstrip().startswith("---") else None
    except (YAMLError, ValueError, TypeError):
        return {}, re.sub(r"\A\s*---\r?\n.*?\n---[ \t]*(\r?\n|\Z)", "", card, flags=re.DOTALL)
    return (found.data.to_dict(), found.text) if found else ({}, card)


def _results_of(metadata: Mapping[str, Any]) -> list[EvalResult]:
    if not metadata.get("model-index"):
        return []
    return ModelCardData(**{"model-index": metadata["model-index"]}, ignore_metadata_errors=True).eval_results or []


def _eval_result(result: Measured) -> EvalResult:
    on_hub, name = result.source["kind"] == "hub", _shown_name(result.source["dataset"])
    features = f"{result.network} features" + (", which also taught the model" if result.taught else "")
    return EvalResult(
        task_type="unconditional-image-generation",
        task_name="Unconditional Image Generation",
        dataset_type=name if on_hub else "imagefolder",
        dataset_name=name,
        dataset_split=result.source.get("split"),
        dataset_revision=result.source.get("revision") if on_hub else None,
        metric_type=result.kind,
        metric_name=f"{result.name} ({features}, {result.pictures})",
        metric_value=result.value,
        metric_args={"fastgan": fastgan.__version__, "features": result.network, "pictures": result.pictures},
    )


def metrics_of(folder: Path) -> dict[str, Any]:
    """What `fastgan evaluate` found of the weights in a folder; nothing where there is none, or it is of others."""
    found = read_json(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else {}
    return found if found.get("weights_sha256") and found["weights_sha256"] == weights_hash(folder) else {}


def _measured(folder: Path, source: Mapping[str, Any] | None, best: bool) -> list[Measured]:
    """Figures about the weights at hand: what `fastgan evaluate` found of them, or else what the run did."""
    weights = folder / BEST if best else folder
    if found := metrics_of(weights):
        return [measured for result in found["results"] for measured in _figures(result, found)]
    state = best_of_run(folder) if best else newest_state(folder)
    images = state.images if state else None
    level = ModelConfig.from_dict(read_json(weights / CONFIG_FILE)).level
    lines = [line for line in watch.evaluations(watch.read_log(folder / LOG_FILE)) if line["images"] == images]
    lines = [line for line in lines if line.get("level", level) == level]
    if not lines or not source:
        return []
    return _figures(lines[-1], {"seeds": f"0-{lines[-1]['fake_images'] - 1}", "psi": 1, "dataset": source})


FIGURES = {  # what a card shows of an evaluation: name, and how to print it
    "fid": ("FID", "{fid:.1f}"),
    "kid": ("KID", "{kid:.4f} ± {kid_std:.4f}"),
    "precision": ("Precision", "{precision:.3f}"),
    "recall": ("Recall", "{recall:.3f}"),
    "coverage": ("Coverage", "{coverage:.3f}"),
    "near_share": ("Share close to a training picture, 0.05 is usual", "{near_share:.3f}"),
    "distance_ratio": ("Distance to the nearest training picture, 1 is usual", "{distance_ratio:.2f}"),
}


def _figures(result: Mapping[str, Any], found: Mapping[str, Any]) -> list[Measured]:
    """An evaluation under one network, figure by figure."""
    cut = "" if found["psi"] == 1 else f", psi {found['psi']:g}"
    pictures = f"{result['fake_images']} drawn (seeds {found['seeds']}{cut}), {result['real_images']} real"
    network, taught = f"{result['network']}, {result['resize']}", result["network_taught_model"]
    training = found.get("training_pictures", True)
    if not training:
        pictures += f" of `{_shown_name(found['dataset']['dataset'])}`, which it did not learn from"
    return [
        Measured(key, name, result[key], text.format(**result), pictures, network, taught, found["dataset"])
        for key, (name, text) in FIGURES.items()
        if _is_number(result[key]) and (training or key not in OF_COPIES)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _training(folder: Path, best: bool) -> dict[str, Any] | None:
    """How far and how long the run went; None for a model that was not trained here."""
    state = newest_state(folder)
    if state is None:
        return None
    images, steps, seconds = state.images, state.steps, state.seconds
    if best and (found := best_of_run(folder)) and images:
        share = found.images / images
        images, steps, seconds = found.images, round(steps * share), seconds * share
    return {"images": images, "steps": steps, "time": _duration(seconds)}


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _base_sentence(base: Mapping[str, Any]) -> str:
    if not base:
        return ""
    if not base.get("revision"):
        return f"another run, {_shown_name(base['model'])}"
    return f"[{base['model']}](https://huggingface.co/{base['model']}) at commit `{base['revision']}`"


def _source_sentence(source: Mapping[str, Any]) -> str:
    count = f"{source['pictures']} pictures" if source.get("pictures") else "Pictures"
    name = _shown_name(source["dataset"])
    if source["kind"] == "hub":
        where = f"[{name}](https://huggingface.co/datasets/{name})"
        config = f", configuration `{source['config']}`" if source.get("config") else ""
        revision = f", commit `{source['revision']}`" if source.get("revision") else ""
        return f"{count} of {where}{config}, split `{source['split']}`{revision}."
    return f"{count} from {DATASET_KINDS[source['kind']]} named `{name}`, which is not on the Hub."


def _preparation(settings: Mapping[str, Any]) -> str:
    how = {"crop": "cut to their middle", "pad": "shown whole on a background", "stretch": "stretched to the shape"}
    mirrored = "half of them mirrored" if settings["flip"] else "none of them mirrored"
    return f"Pictures of another shape were {how[settings['fit']]}, and {mirrored} as it learned."


def _span(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


# ---------------------------------------------------------------------- the card of a dataset


def render_dataset_card(
    repo: str, facts: Mapping[str, Any], existing: str | None = None, license: str | None = None
) -> str:
    """The card of a set of pictures, as README.md.

    Args:
        repo: Hub id.
        facts: what hub_cards/dataset.md tells: splits (pictures by name), sizes, formats, transparency.
        existing: the card that is there already, kept as that of a model is.
        license: of the pictures, for the metadata; else what `existing` says.
    """
    title, count = repo.rpartition("/")[2], sum(facts["splits"].values())
    section = _templates.get_template("dataset.md").render(repo=repo, pictures=count, **facts)
    data = DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["unconditional-image-generation"],
        size_categories=[next(name for name, most in SIZES.items() if count < most)],
        tags=["few-shot", "fastgan"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in facts["splits"]],
            }
        ],
    )
    ours = data.to_dict()
    if existing and (name := _read_card(existing)[0].get("pretty_name")):
        ours["pretty_name"] = name
    return _merge(ours, title, section, existing, replaced=("dataset_info",))  # tells of files that are gone


def is_from_here(card: str) -> bool:
    """Whether a push from here has written to a card, though it may have kept all of its text."""
    tags = _read_card(card)[0].get("tags") or []
    return "fastgan" in ([tags] if isinstance(tags, str) else tags)


SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7, "n>10M": math.inf}


# ---------------------------------------------------------------------- the pictures in it


def draw_card_pictures(folder: Path, best: bool = False) -> None:
    """Write samples.png, style_mix.png and interpolation.mp4 of a folder's model into the folder.

    A film and a mixing grid that were drawn with these weights are left as they are. Below 64 pixels there are no
    gates, so no mixing grid either.

    Raises:
        UserError: the folder holds no model, or can't be written to.
    """
    from tqdm import tqdm

    from fastgan.hub import from_pretrained
    from fastgan.sampling import interpolate, mix_sheet, sample, seeded_inputs, walk
    from fastgan.video import write_mp4

    weights = folder / BEST if best else folder
    generator = from_pretrained(weights)
    _write_sheet(folder / SAMPLES_FILE, list(sample(generator, SAMPLE_SEEDS)), 4)
    # What weights drew is given their own time; what is newer than all weights is somebody's own work.
    all_weights = (folder / WEIGHTS_FILE, folder / BEST / WEIGHTS_FILE)
    newest = max(path.stat().st_mtime_ns for path in all_weights if path.exists())
    time = (weights / WEIGHTS_FILE).stat().st_mtime_ns

    def is_due(name: str) -> bool:
        made = (folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0
        return made != time and made <= newest

    if generator.config.gates and is_due(STYLE_MIX_FILE):
        columns = 1 + len(STYLE_SEEDS)
        cells, count = mix_sheet(generator, CONTENT_SEEDS, STYLE_SEEDS), columns * (1 + len(CONTENT_SEEDS))
        bar = tqdm(cells, "Mixing grid", count, leave=False, disable=None)
        _write_sheet(folder / STYLE_MIX_FILE, list(bar), columns)
        os.utime(folder / STYLE_MIX_FILE, ns=(time, time))
    if is_due(WALK_FILE):
        z, noise = seeded_inputs(generator, WALK_SEEDS)
        steps = walk(len(WALK_SEEDS), 20, smooth=True, loop=True)
        frames = interpolate(generator, z, noise, steps)
        write_mp4(tqdm(frames, "Film", len(steps), leave=False, disable=None), folder / WALK_FILE)
        os.utime(folder / WALK_FILE, ns=(time, time))


MAX_SHEET = 2048  # pixels: a card is read in a browser


def _write_sheet(path: Path, pictures: list[torch.Tensor], columns: int) -> None:
    from fastgan.sampling import grid

    sheet = grid(torch.cat(pictures), columns)
    sheet.thumbnail((MAX_SHEET, MAX_SHEET))
    write_file(path, lambda temporary: sheet.save(temporary, optimize=True))


def write_card(folder: str | os.PathLike, repo: str | None = None, license: str | None = None) -> Path:
    """Draw the pictures and write the card of a folder into the folder itself; a card there is renewed, not lost.

    Raises:
        UserError: the folder holds no model, can't be written to, or `repo` is no Hub id.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder}: no {CONFIG_FILE}, so there is no model; name a run folder or an imported model")
    if repo:
        try:
            validate_repo_id(repo)
        except HFValidationError:
            raise UserError(f"--repo {repo}: no Hub id; it looks like user/name") from None
    draw_card_pictures(folder)
    path = folder / CARD_FILE
    existing = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else None
    card = render_model_card(folder, repo, existing, license)
    write_text(path, card)
    return path
