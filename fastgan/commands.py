"""The commands that draw, show, measure, report, import and export; `fastgan.cli` puts them beside the others."""

import argparse
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from fastgan.config import TrainConfig
from fastgan.errors import NO_FOLDER, UserError
from fastgan.files import quoted

GATES = "gates that take the style: levels like 64,128, each perhaps with a strength like 256:0.5 [all, at --strength]"
DEVICES = "cpu, cuda, mps, or auto: the GPU where there is one [cpu]"
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
PRECISION = "bf16 or fp16: quicker, a shade off in places; auto: what is quicker here [fp32]"
MOST_MIXES = 2500  # pictures of one mixing grid
MOST_FRAMES = 100_000  # of one film: an hour
MOST_STEPS = 100_000  # of gradient descent
MOST_STARTS = 10_000  # seeds that a search begins with
GRID_BYTES = 2**30  # of the pictures of one grid
EVALUATE = """\
Figures under several networks: --network efficientnet-lite1,efficientnet-lite2. A network that taught the model
flatters it and is marked. Compare figures only at equal picture counts. Features of real pictures are kept in the
cache. For a model folder, metrics.json, nearest.png and training/features.safetensors are written into it."""

PROJECT = """\
Beside FILE.png stands FILE.safetensors with the latent, "z", and the noise, "noise.0" and so on. The code that is
printed stands for the latent in the app. Ctrl-C stops the search and writes the nearest so far."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands."""
    for add in (
        _add_sample,
        _add_app,
        _add_import,
        _add_interpolate,
        _add_mix,
        _add_evaluate,
        _add_project,
        _add_export,
        _add_report,
    ):
        add(commands)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    measure = commands.add_parser("evaluate", help="how near drawn pictures come to real ones", epilog=EVALUATE)
    add_model(measure)
    measure.add_argument(
        "--dataset", metavar="USER/NAME|PATH", help="the real pictures [those that a run folder was trained on]"
    )
    measure.add_argument(
        "--network",
        action="append",
        metavar="NAME,NAME",
        help="efficientnet-lite0, -lite1, -lite2 or inception, which is fetched [efficientnet-lite2]",
    )
    count = measure.add_mutually_exclusive_group()
    count.add_argument("--images", type=int, metavar="N", help="draw seeds 0 to N-1 [as many as there are real ones]")
    count.add_argument("--seeds", metavar="SEEDS", help="draw these, like 0-203")
    add_psi(measure)
    measure.add_argument("--out", type=Path, metavar="FOLDER", help="where files go [the model folder]")
    for name, text in (
        ("split", "of the dataset"),
        ("background", "colour behind transparent or padded pictures"),
        ("image-column", "column with the pictures"),
        ("dataset-config", "configuration of a Hub dataset"),
        ("dataset-revision", "branch, tag or commit of a Hub dataset"),
    ):
        measure.add_argument(f"--{name}", metavar="TEXT", help=f"{text} [as in training]")
    measure.add_argument("--cache-dir", metavar="TEXT", help="where prepared pictures and their features are kept")
    measure.add_argument(
        "--fit",
        metavar="crop|pad|stretch",
        help="how a picture of another shape becomes this one [as in training]",
    )
    measure.set_defaults(run=evaluate_command)


def evaluate_command(options: argparse.Namespace) -> None:
    """`fastgan evaluate`: print the figures, and write them into the model folder."""
    from fastgan import evaluation
    from fastgan.data import load_pictures
    from fastgan.files import FEATURES_FILE, METRICS_FILE, NEAREST_FILE
    from fastgan.hub import fetch_config
    from fastgan.metrics import FEWEST

    local = os.path.isdir(options.model)
    if not local:
        fetch_config(options.model, options.revision, NO_FOLDER)  # so that a wrong name is what is said
    trained = evaluation.training_settings(options.model, options.revision)
    dataset = options.dataset or (trained.dataset if trained else None)
    if not dataset or (not options.dataset and not local and not _is_on_hub(dataset)):  # but of another machine
        raise UserError(f"evaluate {options.model}: which pictures should it be compared with? Give --dataset")
    if options.images is not None and options.images < FEWEST:
        raise UserError(f"--images: expected at least {FEWEST}, got {options.images}")
    psi = _psi(options.psi)
    networks = [name.strip() for part in options.network or [evaluation.DEFAULT_NETWORK] for name in part.split(",")]
    # Pictures are prepared as they were for training; of another dataset, only the shape is known.
    typed = TrainConfig(dataset=dataset, fit=options.fit or "crop")
    same = trained if trained and typed.dataset == trained.dataset else typed
    generator = load(options)
    config = generator.config
    cache = options.cache_dir or same.cache_dir
    pictures = load_pictures(
        dataset,
        size=(config.height, config.width),
        channels=config.channels,
        config_name=options.dataset_config or same.dataset_config,
        split=options.split or same.split,
        image_column=options.image_column or same.image_column,
        revision=options.dataset_revision or same.revision,
        fit=options.fit or (trained or same).fit,
        background=options.background or (trained or same).background,
        cache_dir=cache,
    )
    folder = options.out or (Path(options.model) if local else None)
    found = evaluation.evaluate(
        generator,
        pictures,
        networks,
        f"0-{options.images - 1}" if options.images else options.seeds,
        psi,
        trained.teachers if trained else None,
        cache,
        folder,
        _trained_on(Path(options.model)) if local else _not_on(typed.dataset, trained),
        progress=True,
    )
    print(evaluation.table(found, _name(options.model)))
    if folder is not None:
        files = (METRICS_FILE, NEAREST_FILE, FEATURES_FILE) if found.training else (METRICS_FILE,)
        print(f"Wrote {', '.join(files)} into {folder}")


def _trained_on(folder: Path) -> str | None:
    """The fingerprint of the pictures that the model of a run, or of its best/, learned from."""
    from fastgan.cards import run_facts

    return (run_facts(folder) or run_facts(folder.parent)).get("fingerprint")


def _check_png(flag: str, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"{flag} {path}: expected a name that ends in .png")


def _is_on_hub(dataset: str) -> bool:
    """Whether the dataset of settings, whole paths where they are of this disk, is one of the Hub's."""
    return "/" in dataset and not os.path.isabs(dataset)


def _not_on(dataset: str, trained: TrainConfig | None) -> str | None:
    """What no set of pictures has for a fingerprint, where a model on the Hub learned from another dataset there."""
    other = trained and _is_on_hub(dataset) and _is_on_hub(trained.dataset) and trained.dataset != dataset
    return "" if other else None


def _add_interpolate(commands: argparse._SubParsersAction) -> None:
    film = _add_drawing(commands, "interpolate", "a film that walks from seed to seed: MP4, GIF or WebP")
    film.add_argument(
        "--seeds", default="0-3", metavar="SEEDS", help="where the walk passes, in this order, like 3,7,1 [0-3]"
    )
    film.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .mp4, .gif or .webp")
    film.add_argument("--frames", type=int, default=60, metavar="N", help="from one seed to the next [60]")
    film.add_argument("--fps", type=float, default=30, metavar="X", help="frames per second [30]")
    film.add_argument("--loop", action="store_true", help="back to the first seed, without a seam")
    film.add_argument("--even", action="store_true", help="the same speed all along [slow near each seed]")
    film.add_argument("--straight", action="store_true", help="in a straight line [along the great circle]")
    film.add_argument("--hold-style", type=int, metavar="SEED", help="gates stay those of this seed all along")
    film.add_argument("--strength", type=float, default=1.0, metavar="X", help="of the held style, 0 to 1 [1.0]")
    film.add_argument("--gates", metavar="LEVELS", help=GATES)
    add_psi(film)
    film.set_defaults(run=interpolate_command)


def interpolate_command(options: argparse.Namespace) -> None:
    """`fastgan interpolate`: write a film, frame by frame."""
    from tqdm import tqdm

    from fastgan import sampling
    from fastgan.video import WRITERS, frame_rate, write_video

    if options.out.suffix.lower() not in WRITERS:
        raise UserError(f"--out {options.out}: expected a name that ends in {', '.join(WRITERS)}")
    seeds = sampling.parse_seeds(options.seeds, "--seeds")
    if len(seeds) < 2:
        raise UserError(f"--seeds {options.seeds}: a walk needs at least 2 seeds")
    most = MOST_FRAMES // len(seeds)
    if not 1 <= options.frames <= most:
        raise UserError(f"--frames {options.frames}: expected 1 frame between them to {most:,}")
    if options.hold_style is None and (options.gates or options.strength != 1):
        raise UserError("--gates and --strength say how a style is held; give --hold-style SEED too")
    steps = sampling.walk(len(seeds), options.frames, not options.even, options.loop)
    psi = _psi(options.psi)
    generator = load(options)
    strength = _strengths(options.gates, options.strength, generator.config.gates)
    z, noise = sampling.seeded_inputs(generator, seeds)
    held = options.hold_style
    style_z = None if held is None else psi * sampling.seeded_inputs(generator, [held])[0]
    frames = sampling.interpolate(generator, psi * z, noise, steps, not options.straight, style_z, strength)
    bar = tqdm(frames, total=len(steps), unit=" frames", disable=None)
    write_video(bar, options.out, options.fps)
    seconds = len(steps) / frame_rate(options.out, options.fps)
    print(f"{len(steps)} frames, {seconds:.1f} s, in {options.out}")


def _add_mix(commands: argparse._SubParsersAction) -> None:
    mixed = _add_drawing(commands, "mix", "a grid of every content with every style")
    mixed.add_argument("--content", default="0-3", metavar="SEEDS", help="seeds, one per row: the main path [0-3]")
    mixed.add_argument(
        "--style", default="4-9", metavar="SEEDS", help="seeds, one per column: what drives the gates [4-9]"
    )
    mixed.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="where to write the grid")
    mixed.add_argument(
        "--strength", type=float, default=1.0, metavar="X", help="0 keeps the content, 1 takes the style [1.0]"
    )
    mixed.add_argument("--gates", metavar="LEVELS", help=GATES)
    add_psi(mixed)
    mixed.set_defaults(run=mix_command)


def mix_command(options: argparse.Namespace) -> None:
    """`fastgan mix`: write the grid, contents in the first column and styles in the first row (arXiv:2101.04775)."""
    import torch
    from tqdm import tqdm

    from fastgan import sampling
    from fastgan.files import write_file

    _check_png("--out", options.out)
    contents = sampling.parse_seeds(options.content, "--content")
    styles = sampling.parse_seeds(options.style, "--style")
    if len(contents) * len(styles) > MOST_MIXES:
        raise UserError(f"mix: {len(contents)} contents × {len(styles)} styles are more than {MOST_MIXES:,} pictures")
    psi = _psi(options.psi)
    generator, about = load(options), drawn_by(options)
    config, cells = generator.config, (len(contents) + 1) * (len(styles) + 1)
    if cells * config.channels * config.height * config.width > GRID_BYTES:
        raise UserError(f"mix: {cells:,} pictures of {config.width}x{config.height} are too many; try fewer seeds")
    if not generator.config.gates:
        raise UserError(f"mix: {_name(options.model)} has no gates to mix through; models of 64 pixels and more have")
    strength = _strengths(options.gates, options.strength, generator.config.gates)
    drawn = sampling.mix_sheet(generator, contents, styles, psi, strength)
    bar = tqdm(drawn, total=cells, unit=" pictures", disable=None)
    sheet = sampling.grid(torch.cat(list(bar)), columns=1 + len(styles))
    facts = {"content": options.content, "style": options.style, "psi": options.psi, "strength": options.strength}
    info = sampling.png_info(**about, **facts, gates=options.gates or "all")
    write_file(options.out, lambda path: sheet.save(path, pnginfo=info))
    print(f"{len(contents)} contents × {len(styles)} styles in {options.out}")


def _add_export(commands: argparse._SubParsersAction) -> None:
    exported = commands.add_parser("export", help="the generator as ONNX, for programs without PyTorch")
    add_model(exported)
    exported.add_argument("--format", choices=("onnx",), default="onnx", help="[onnx]")
    exported.add_argument("--out", type=Path, metavar="FOLDER", help="where files go [the model folder]")
    exported.set_defaults(run=export_command)


def export_command(options: argparse.Namespace) -> None:
    """`fastgan export`: write model.onnx and model_fp16.onnx, checked against PyTorch's pictures."""
    from fastgan.export import export_onnx
    from fastgan.files import make_folder

    folder = options.out or (Path(options.model) if os.path.isdir(options.model) else None)
    if folder is None:
        raise UserError(f"export {options.model}: say where to: --out FOLDER")
    generator = load(options)
    make_folder(folder)
    for file in export_onnx(generator, folder, name=_name(options.model)):
        print(
            f"{file.path}: {file.size / 1e6:.1f} MB; onnxruntime's pictures differ from PyTorch's "
            f"by at most {file.difference:.1e} (of 2)"
        )


def _add_report(commands: argparse._SubParsersAction) -> None:
    page = commands.add_parser("report", help="one page about a run: pictures, curves, figures, settings")
    page.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, finished or not")
    page.set_defaults(run=report_command)


def report_command(options: argparse.Namespace) -> None:
    """`fastgan report`: write report.html into a run folder."""
    from fastgan.report import write_report

    print(f"Wrote {write_report(options.run_folder)}")


def _name(model: str) -> str:
    """How a model is called in files: its Hub id, or its folder's name and never the way there."""
    return Path(model).resolve().name if os.path.isdir(model) else model.partition("@")[0]


def add_psi(parser: argparse.ArgumentParser) -> None:
    """Add the flag for truncation."""
    parser.add_argument(
        "--psi", type=float, default=1.0, metavar="X", help="truncation: 1 is off, less varies less [1]"
    )


def _psi(psi: float) -> float:
    from fastgan.sampling import check_psi

    check_psi(psi, "--psi")
    return psi


def _strengths(gates: str | None, strength: float, levels: Sequence[int]) -> dict[int, float]:
    """What `style_strength` of the generator stands for --gates and --strength."""
    if not 0 <= strength <= 1:
        raise UserError(f"--strength: expected a number from 0 to 1, got {strength:g}")
    if gates is None:
        found = {level: strength for level in levels}
    else:
        found = {}
        for part in gates.split(","):
            level, _, own = part.strip().partition(":")
            try:
                found[int(level)] = float(own) if own else strength
            except ValueError:
                raise UserError(f"--gates: expected levels like 64,128:0.5, got {gates!r}") from None
    if unknown := sorted(set(found) - set(levels)):
        have = ", ".join(map(str, levels)) or "none"
        raise UserError(f"--gates: this model has no gate {', '.join(map(str, unknown))}; it has {have}")
    if not all(0 <= value <= 1 for value in found.values()):
        raise UserError(f"--gates: expected strengths from 0 to 1, got {gates!r}")
    return found


def _add_project(commands: argparse._SubParsersAction) -> None:
    find = commands.add_parser("project", help="the latent that draws a picture most nearly", epilog=PROJECT)
    add_model(find)
    find.add_argument("picture", type=Path, metavar="PICTURE", help="any picture file")
    find.add_argument(
        "--out", type=Path, default=Path("projected.png"), metavar="FILE.png", help="where to write it [projected.png]"
    )
    find.add_argument("--starts", type=int, default=48, metavar="N", help="seeds to look at first [48]")
    find.add_argument("--steps", type=int, default=120, metavar="N", help="of gradient descent [120]")
    find.add_argument(
        "--fit-noise", action="store_true", help="search for the noise maps too; the printed code does not hold them"
    )
    find.set_defaults(run=project_command)


def project_command(options: argparse.Namespace) -> None:
    """`fastgan project`: search for a picture, and write what came nearest with what it takes to draw it again."""
    from tqdm import tqdm

    from fastgan.files import write_file
    from fastgan.hub import save_tensors
    from fastgan.projection import encode_latent, open_picture, project
    from fastgan.sampling import png_info, to_pil

    _check_png("--out", options.out)
    if not options.picture.is_file():
        what = "a folder; name one picture in it" if options.picture.is_dir() else "no such file"
        raise UserError(f"{options.picture}: {what}")
    for flag, value, most in (("--starts", options.starts, MOST_STARTS), ("--steps", options.steps, MOST_STEPS)):
        if not 1 <= value <= most:
            raise UserError(f"{flag}: expected a number from 1 to {most:,}, got {value}")
    picture = open_picture(options.picture, str(options.picture))
    generator, about = load(options), drawn_by(options)
    search = project(
        generator,
        picture,
        starts=options.starts,
        keep=min(3, options.starts),
        steps=options.steps,
        fit_noise=options.fit_noise,
    )
    found, stopped = None, False
    with tqdm(total=options.starts + options.steps, unit=" steps", disable=None) as bar:
        try:
            for found in search:
                bar.set_postfix_str(f"distance {found.perceptual:.3f}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            if found is None:
                raise
            stopped = True
    code = encode_latent(found.z)
    info = png_info(**about, seed=code, psi=1)
    write_file(options.out, lambda path: to_pil(found.image[0]).save(path, pnginfo=info))
    tensors = {"z": found.z, **{f"noise.{i}": maps for i, maps in enumerate(found.noise)}}
    write_file(beside := options.out.with_suffix(".safetensors"), lambda path: save_tensors(tensors, path))
    if stopped:
        print(f"Stopped after {found.done} of {found.steps} steps.")
    print(
        f"Perceptual distance {found.perceptual:.3f} (a copy has 0, a random seed {found.by_chance:.3f}); "
        f"pixels are off by {found.pixel:.1f} of 255."
    )
    print(f"Code: {code}")
    print(f"Wrote {options.out} and {beside}")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what says which model, and where it runs."""
    parser.add_argument("model", help="Hub id like user/fastgan-anime, or a run folder")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub model")
    parser.add_argument("--device", default="cpu", metavar="NAME", help=DEVICES)


def _add_drawing(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    """A parser for a command that draws: which model, where it runs, and how exactly pictures are computed."""
    parser = commands.add_parser(name, help=text)
    add_model(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=PRECISION)
    plain = "the network as published, without forms of its arithmetic that cost less"
    parser.add_argument("--no-fast", dest="fast", action="store_false", help=plain)
    return parser


def load(options: argparse.Namespace):
    """The generator that the flags name, where and in the precision they say."""
    import torch

    from fastgan.fast import best_precision, keep_freed_memory
    from fastgan.hub import from_pretrained

    if options.revision and os.path.isdir(options.model):
        raise UserError(
            f"--revision {options.revision}: {options.model} is a folder; only models on the Hub have revisions"
        )
    where, precision = device(options.device), getattr(options, "precision", "fp32")
    if where.type == "cpu":
        keep_freed_memory()
    if precision == "auto":
        precision = "bf16" if best_precision(where) == "bf16" else "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return from_pretrained(options.model, revision=options.revision, device=where, dtype=dtype)


def drawn_by(options: argparse.Namespace) -> dict[str, str]:
    """What a PNG tells of the model at hand: its name, its commit on the Hub, and what is unusual of the drawing."""
    from fastgan.hub import fetch_config

    commit = "" if os.path.isdir(options.model) else fetch_config(options.model, options.revision)[1]
    facts = {"model": _name(options.model), "revision": commit}
    if (precision := getattr(options, "precision", "fp32")) != "fp32":
        facts["precision"] = precision
    if not getattr(options, "fast", True):
        facts["fast"] = "no"
    return facts


def _add_sample(commands: argparse._SubParsersAction) -> None:
    draw = _add_drawing(commands, "sample", "pictures for seeds, as a grid or as files")
    draw.add_argument(
        "--seeds", default="0-15", metavar="SEEDS", help="numbers and ranges like 0-15 or 3,7,100-103 [0-15]"
    )
    add_psi(draw)
    draw.add_argument("--grid", type=Path, metavar="FILE.png", help="all pictures on one sheet")
    draw.add_argument("--out", type=Path, metavar="FOLDER", help="one PNG per seed")
    draw.add_argument("--columns", type=int, metavar="N", help="of the sheet; as square as it gets when not given")
    draw.set_defaults(run=sample_command)


def sample_command(options: argparse.Namespace) -> None:
    """`fastgan sample`: write a grid, or one PNG per seed with what it takes to draw it again."""
    from tqdm import tqdm

    from fastgan.files import make_folder, write_file
    from fastgan.sampling import grid, parse_seeds, png_info, sample, to_pil

    if not options.grid and not options.out:
        raise UserError("sample: say where to: --grid FILE.png or --out FOLDER")
    if options.columns is not None and options.columns < 1:
        raise UserError(f"--columns: expected at least 1, got {options.columns}")
    if options.grid:
        _check_png("--grid", options.grid)
    seeds = parse_seeds(options.seeds, "--seeds")
    psi = _psi(options.psi)
    generator = load(options)
    config = generator.config
    if options.grid and len(seeds) * config.channels * config.height * config.width > GRID_BYTES:
        raise UserError(f"--grid: {len(seeds):,} pictures of {config.width}x{config.height} are too many; try --out")
    if options.out:
        make_folder(options.out)
    pictures = (picture for batch in sample(generator, seeds, psi) for picture in batch)
    about = drawn_by(options)

    kept = []
    for seed, picture in zip(seeds, tqdm(pictures, total=len(seeds), unit=" pictures", disable=None), strict=True):
        if options.out:
            image, info = to_pil(picture), png_info(**about, seed=seed, psi=options.psi)
            write_file(options.out / f"seed{seed:04d}.png", lambda path, i=image, p=info: i.save(path, pnginfo=p))
        if options.grid:
            kept.append(picture)
    if options.out:
        print(f"{len(seeds)} pictures in {options.out}")
    if options.grid:
        import torch

        sheet = grid(torch.stack(kept), options.columns)
        info = png_info(**about, seed=options.seeds, psi=options.psi)
        write_file(options.grid, lambda path: sheet.save(path, pnginfo=info))
        print(f"{len(seeds)} pictures in {options.grid}")


def device(name: str):
    """The torch device of that name.

    Raises:
        UserError: it is not there.
    """
    import torch

    from fastgan.hub import find_device

    try:
        device = find_device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: not available here; try cpu") from None
    return device


def _add_app(commands: argparse._SubParsersAction) -> None:
    app = commands.add_parser("app", help="the page in a browser")
    app.add_argument("model", nargs="?", default="", help="Hub id or run folder to open with")
    app.add_argument("--models", default="", metavar="A,B", help="more models that the page offers")
    app.add_argument(
        "--allow-local",
        action="store_true",
        help="folders may be typed, and whatever your Hub login may read: only on your own machine",
    )
    app.add_argument("--device", default="cpu", metavar="NAME", help=DEVICES)
    app.add_argument("--mcp", action="store_true", help="serve the actions as MCP tools too")
    app.add_argument(
        "--share", action="store_true", help="with a public link for up to a week, through Gradio's servers"
    )
    app.add_argument("--port", type=int, metavar="N", help="[the first free one from 7860]")
    app.add_argument(
        "--host", default="127.0.0.1", metavar="HOST", help="0.0.0.0 to be reachable from other machines [127.0.0.1]"
    )
    app.set_defaults(run=app_command)


def app_command(options: argparse.Namespace) -> None:
    """`fastgan app`: open the page."""
    try:
        from fastgan.app import launch
    except ImportError as error:
        raise UserError(f'app: needs the package {error.name}: pip install -e ".[app]"') from None
    models = [name.strip() for name in options.models.split(",") if name.strip()]
    _check_address(options.host, options.port)
    launch(
        options.model,
        host=options.host,
        port=options.port,
        models=models,
        allow_local=options.allow_local,
        mcp=options.mcp,
        share=options.share,
        device=device(options.device),
    )


def _check_address(host: str, port: int | None) -> None:
    """Say before the model is opened that the page can't be served there."""
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port: expected a number from 1 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, UnicodeError) as error:
        if port and getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            free = "leave it out to take the first free one"
            raise UserError(f"--port {port}: {error.strerror.partition(' (')[0]}; {free}") from None
        raise UserError(f"--host {host}: no address of this machine; try 127.0.0.1, or 0.0.0.0 for all") from None


def _add_import(commands: argparse._SubParsersAction) -> None:
    bring = commands.add_parser("import", help="an original FastGAN checkpoint as a model folder")
    bring.add_argument("source", metavar="SOURCE", help="file, or one on the Hub like user/repo:all_50000.pth")
    bring.add_argument("out", type=Path, metavar="OUT", help="new folder")
    bring.add_argument("--weights", choices=("ema", "raw"), help="averaged or raw ones [ema when the file has them]")
    bring.add_argument(
        "--reestimate-batch-norm",
        action="store_true",
        help="measure batch-norm statistics afresh: helps when colours look shifted",
    )
    bring.add_argument("--license", metavar="NAME", help="of the source [what its card on the Hub says]")
    bring.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    bring.set_defaults(run=import_command)


def import_command(options: argparse.Namespace) -> None:
    """`fastgan import`: write a model folder from a checkpoint of another program."""
    from fastgan.convert import import_checkpoint

    done = import_checkpoint(
        options.source,
        options.out,
        weights=options.weights,
        reestimate=options.reestimate_batch_norm,
        license=options.license,
        revision=options.revision,
    )
    config, facts = done.config, done.facts
    weights = {"ema": "averaged weights", "raw": "raw weights"}.get(facts["weights"], "weights as stored")
    print(
        f"Read {facts['source']} ({facts['layout']}, {weights}): "
        f"{config.width}x{config.height}, {config.channels} channels, ngf {config.ngf}, z_dim {config.z_dim}"
    )
    print(f"Wrote {options.out}: {', '.join(done.files)}")
    for remark in done.remarks:
        print(remark)
    print(f"Its card, with source and licence: fastgan card {quoted(options.out)}")
    print(f"Next: fastgan sample {quoted(options.out)} --grid samples.png")
