"""The commands that draw films and grids, measure, report and export; `fastgan.cli` puts them beside the others."""

import argparse
import os
from pathlib import Path

from fastgan.cli import add_model, device
from fastgan.errors import UserError

EVALUATE = """\
Figures under several networks: --network efficientnet-lite1,efficientnet-lite2. A network that taught the model
flatters it and is marked. Compare figures only at equal picture counts. Features of real pictures are kept in the
cache. For a model folder, metrics.json, nearest.png and training/features.safetensors are written into it."""

PROJECT = """\
Beside FILE.png stands FILE.safetensors with the latent, "z", and the noise, "noise.0" and so on. The code that is
printed stands for the latent in the app. Ctrl-C stops the search and writes the nearest so far."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands."""
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
    count.add_argument("--seeds", help="draw these, like 0-203")
    measure.add_argument("--psi", type=float, default=1.0, help="truncation [1.0]")
    measure.add_argument("--out", type=Path, metavar="FOLDER", help="where files go [the model folder]")
    for name, text in (
        ("split", "of the dataset"),
        ("fit", "crop, pad or stretch: how a picture of another shape becomes this one"),
        ("background", "colour behind transparent or padded pictures"),
        ("image-column", "column with the pictures"),
        ("dataset-config", "configuration of a Hub dataset"),
        ("dataset-revision", "branch, tag or commit of a Hub dataset"),
        ("cache-dir", "where prepared pictures and their features are kept"),
    ):
        measure.add_argument(f"--{name}", help=f"{text} [as in training]" if name != "cache-dir" else text)
    measure.set_defaults(run=evaluate_command)

    find = commands.add_parser("project", help="the latent that draws a picture most nearly", epilog=PROJECT)
    add_model(find)
    find.add_argument("picture", type=Path, metavar="PICTURE", help="any picture file")
    find.add_argument("--out", type=Path, default=Path("projected.png"), metavar="FILE.png", help="[projected.png]")
    find.add_argument("--starts", type=int, default=48, metavar="N", help="seeds to look at first [48]")
    find.add_argument("--steps", type=int, default=120, metavar="N", help="of gradient descent [120]")
    find.add_argument("--fit-noise", action="store_true", help="search the noise too, kept white; no code holds it")
    find.set_defaults(run=project_command)


def evaluate_command(options: argparse.Namespace) -> None:
    """`fastgan evaluate`: print the figures, and write them into the model folder."""
    from fastgan import evaluation
    from fastgan.config import TrainConfig
    from fastgan.data import load_pictures
    from fastgan.hub import from_pretrained

    local = os.path.isdir(options.model)
    trained = evaluation.training_settings(Path(options.model)) if local else None
    dataset = options.dataset or (trained.dataset if trained else None)
    if not dataset:
        raise UserError(f"evaluate {options.model}: which pictures is it to be compared with? Give --dataset")
    if options.images is not None and options.images < 6:
        raise UserError(f"--images: expected at least 6, got {options.images}")
    networks = [name.strip() for part in options.network or [evaluation.DEFAULT_NETWORK] for name in part.split(",")]
    # Pictures are prepared as they were for training; of another dataset, only the shape is known.
    same = trained if trained and dataset == trained.dataset else TrainConfig(dataset=dataset)
    generator = from_pretrained(options.model, revision=options.revision, device=device(options.device))
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
        fit=_one_of("--fit", options.fit, ("crop", "pad", "stretch")) or (trained or same).fit,
        background=options.background or (trained or same).background,
        cache_dir=Path(cache) if cache else None,
    )
    folder = options.out or (Path(options.model) if local else None)
    found = evaluation.evaluate(
        generator,
        pictures,
        networks,
        f"0-{options.images - 1}" if options.images else options.seeds,
        options.psi,
        trained.teachers if trained else None,
        Path(cache) if cache else None,
        folder,
        progress=True,
    )
    print(evaluation.table(found, _name(options.model)))
    if folder is not None:
        files = (evaluation.METRICS_FILE, evaluation.SHEET_FILE, str(evaluation.FEATURES_FILE))
        print(f"Wrote {', '.join(files)} into {folder}")


def _name(model: str) -> str:
    """How a model is called in files: its Hub id, or its folder's name and never the way there."""
    return Path(model).resolve().name if os.path.isdir(model) else model


def _one_of(flag: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    if value is not None and value not in choices:
        raise UserError(f"{flag}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def project_command(options: argparse.Namespace) -> None:
    """`fastgan project`: search for a picture, and write what came nearest with what it takes to draw it again."""
    from tqdm import tqdm

    from fastgan.hub import from_pretrained, save_tensors, write_file
    from fastgan.projection import encode_latent, open_picture, project
    from fastgan.sampling import png_info, to_pil

    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: expected a name that ends in .png")
    if not options.picture.is_file():
        raise UserError(f"{options.picture}: no such file")
    picture = open_picture(options.picture, str(options.picture))
    generator = from_pretrained(options.model, revision=options.revision, device=device(options.device))
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
    model = Path(options.model).name if os.path.isdir(options.model) else options.model
    code = encode_latent(found.z)
    info = png_info(model, options.revision or "", seed=code, psi=1)
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
