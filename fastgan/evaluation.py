"""A model and a dataset to figures: what `fastgan evaluate` measures, writes and shows."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm.auto import tqdm

from fastgan import __version__, data, metrics, sampling
from fastgan.config import LOCAL, TrainConfig
from fastgan.errors import UserError
from fastgan.features import to_rgb
from fastgan.files import (
    FEATURES_FILE,
    METRICS_FILE,
    NEAREST_FILE,
    SETTINGS_FILE,
    SHARED_SETTINGS_FILE,
    make_folder,
    read_json,
    write_file,
    write_json,
)
from fastgan.growing import shrink
from fastgan.hub import MAX_CONFIG, fetch, weights_hash
from fastgan.metrics import MetricNetwork, Metrics, Nearest
from fastgan.models import Generator
from fastgan.pixels import to_float, to_uint8

DEFAULT_NETWORK = "efficientnet-lite2"  # it teaches no model, and is not the one that training keeps the best by
MOST_REAL = 1024  # real pictures that training compares with, spread evenly over the set
MOST_IMAGES = 10_000  # drawn when no number is given
SHEET_ROWS = 8
SHEET_NEIGHBOURS = 5
SHEET_SIDE = 128  # pixels of a picture on the sheet, at most


@dataclass(frozen=True)
class Alike:
    """A drawn picture and the training pictures nearest to it."""

    seed: int
    training: list[int]  # rows of the dataset, nearest first
    distances: list[float]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found, and what it was found on."""

    source: dict[str, Any]  # the dataset's facts, see :class:`fastgan.data.Pictures`
    fingerprint: str  # of the dataset as prepared
    size: tuple[int, int]  # height and width, pixels
    seeds: str  # as given to :func:`fastgan.sampling.parse_seeds`
    psi: float
    results: list[Metrics]  # one per network
    alike: list[Alike]  # the drawn pictures that come nearest to training pictures, under the first network
    weights: str | None = None  # sha256 of model.safetensors, for a local model
    training: bool = True  # whether these are the pictures that it learned from, as far as is known
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        alike = [asdict(one) for one in self.alike]
        return {
            "fastgan": self.version,
            "dataset": self.source,
            "fingerprint": self.fingerprint,
            "size": list(self.size),
            "seeds": self.seeds,
            "psi": self.psi,
            "weights_sha256": self.weights,
            "training_pictures": self.training,
            "results": [result.to_dict() for result in self.results],
            "most_alike": alike,
        }


def evaluate(
    generator: Generator,
    pictures: data.Pictures,
    networks: Sequence[str] = (DEFAULT_NETWORK,),
    seeds: str | None = None,
    psi: float = 1.0,
    teachers: Sequence[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
    folder: Path | None = None,
    trained_on: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Every figure of a generator against the pictures of a dataset.

    Args:
        generator: in eval mode, on the device that does the work.
        pictures: of the generator's size and channels.
        networks: whose features, by name; see :func:`fastgan.metrics.feature_network`.
        seeds: which pictures to draw, like "0-203"; as many as there are real ones, at most 10,000, when not given.
        psi: truncation.
        teachers: names of the feature networks that taught the model; None where nobody knows.
        cache_dir: where features of real pictures are kept; `fastgan` in the Hugging Face home when not given.
        folder: where metrics.json is written, and nearest.png and training/features.safetensors if these are the
            training pictures; nowhere when not given.
        trained_on: fingerprint of the pictures that the model learned from; None where nobody knows.
        progress: show bars.

    Raises:
        UserError: fewer than 6 pictures on a side, a network that is not available, a folder that can't be written,
            a broken model.
    """
    if not networks:
        raise UserError("evaluate: name at least one network")
    check_finite(generator)
    weights = None if folder is None else weights_hash(folder)  # now: a run that goes on will write others
    training = trained_on in (None, pictures.fingerprint)
    seeds = seeds or f"0-{min(len(pictures.images), MOST_IMAGES) - 1}"
    numbers = sampling.parse_seeds(seeds)
    metrics.check_count(len(pictures.images), "real pictures")
    metrics.check_count(len(numbers), "generated pictures")
    if folder is not None:
        make_folder(folder)
    built = [metrics.feature_network(name) for name in dict.fromkeys(networks)]  # missing ones are said at once
    cache = data.cache_folder(cache_dir) / "features"
    device = generator.device

    # Drawn once for all networks; drawing costs more than keeping the features of each.
    fakes: list[list[Tensor]] = [[] for _ in built]
    bar = tqdm(total=len(numbers), desc="Drawing", unit=" pictures", disable=not progress, leave=False)
    for batch in sampling.sample(generator, numbers, psi):
        for network, rows in zip(built, fakes, strict=True):
            rows.append(metrics.extract(network, batch, device))
        bar.update(len(batch))
    bar.close()

    results, alike = [], []
    for network, parts in zip(built, fakes, strict=True):
        fake = torch.cat(parts)
        real, mirrored = (
            _real(_shown(pictures.images, mirror, progress), pictures.fingerprint, network, cache, device, mirror)
            for mirror in (False, True)
        )
        results.append(metrics.measure(real, fake, network, teachers, mirrored))
        if network is not built[0]:
            continue
        nearest = metrics.nearest_training(fake, real, mirrored, min(SHEET_NEIGHBOURS, len(real)))
        alike = most_alike(nearest, numbers)
        if folder is not None and training:
            save_features(folder, real, network, pictures.fingerprint)
    size = (generator.config.height, generator.config.width)
    found = Evaluation(pictures.source, pictures.fingerprint, size, seeds, psi, results, alike, weights, training)
    if folder is not None:
        write_json(folder / METRICS_FILE, found.to_dict())
        if training:
            save_sheet(folder, generator, pictures.images, alike, psi)
    return found


def check_finite(generator: Generator) -> None:
    """Raise a UserError if a weight is no number: what it draws would be black, and would be measured."""
    for name, tensor in generator.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"the model is broken: {name} holds what is not a number")


class Evaluator:
    """Measures one generator again and again while it learns. Network and features of real pictures are kept.

    Args:
        network: name of the feature network.
        pictures: the training set, of which up to 1,024 are compared with.
        images: how many pictures to draw, seeds 0 up.
        teachers: names of the feature networks that teach the model.
        cache_dir: where features of real pictures are kept, see :func:`fastgan.data.cache_folder`.
        device: where the network runs.

    Raises:
        UserError: the network is not available, or there are fewer than 6 pictures.
    """

    def __init__(
        self,
        network: str,
        pictures: data.Pictures,
        images: int,
        teachers: Sequence[str] = (),
        cache_dir: str | os.PathLike | None = None,
        device: torch.device | str = "cpu",
    ):
        self.pictures, self.seeds, self.teachers, self.device = pictures, range(images), teachers, device
        self.network = metrics.feature_network(network).to(device)
        self.cache = data.cache_folder(cache_dir) / "features"
        self.rows = torch.linspace(0, len(pictures.images) - 1, min(MOST_REAL, len(pictures.images))).round().long()
        self.height = 0  # of the real pictures that were looked at
        self.real = self.mirrored = torch.empty(0)

    def __call__(self, generator: Generator) -> tuple[Metrics, list[Alike]]:
        """The figures of a generator in eval mode, and what it drew that comes nearest to training pictures.

        One that has yet to grow is compared with real pictures as small as its own.

        Raises:
            UserError: the generator is broken.
        """
        check_finite(generator)
        if self.height != generator.config.height:
            self.real, self.mirrored = (self._look(generator.config.height, mirror) for mirror in (False, True))
            self.height = generator.config.height
        fake = metrics.extract(self.network, sampling.sample(generator, self.seeds), self.device)
        figures = metrics.measure(self.real, fake, self.network, self.teachers, self.mirrored)
        nearest = metrics.nearest_training(fake, self.real, self.mirrored, min(SHEET_NEIGHBOURS, len(self.real)))
        nearest = nearest._replace(indices=self.rows[nearest.indices])
        return figures, most_alike(nearest, self.seeds)

    def _look(self, height: int, mirror: bool) -> Tensor:
        """Features of real pictures, shrunk to so many rows, or of their mirror images."""
        factor = self.pictures.images.shape[2] // height
        fingerprint = f"{self.pictures.fingerprint} {len(self.rows)} of {len(self.pictures.images)}"
        fingerprint += f" at 1/{factor}" if factor > 1 else ""

        def batches() -> Iterator[Tensor]:
            for rows in self.rows.split(metrics.BATCH):
                batch = self.pictures.images[rows]
                yield to_uint8(shrink(to_float(batch), factor)) if factor > 1 else batch

        return _real(batches(), fingerprint, self.network, self.cache, self.device, mirror)


def most_alike(nearest: Nearest, seeds: Sequence[int]) -> list[Alike]:
    """The drawn pictures that come nearest to training pictures, nearest first, as many as a sheet has rows."""
    order = nearest.distances[:, 0].argsort()[:SHEET_ROWS].tolist()
    return [Alike(seeds[i], nearest.indices[i].tolist(), nearest.distances[i].tolist()) for i in order]


def save_sheet(folder: Path, generator: Generator, training: Tensor, alike: Sequence[Alike], psi: float = 1.0) -> None:
    """Write nearest.png: on the left drawn pictures, beside each the training pictures that it comes nearest to.

    Args:
        folder: where.
        generator: in eval mode; it draws its pictures again.
        training: uint8 [N, C, H, W].
        alike: the rows.
        psi: truncation that they were found at.
    """
    drawn = sampling.sample(generator, [row.seed for row in alike], psi)
    drawn = [picture for batch in drawn for picture in batch]
    height, width = training.shape[2:]
    scale = min(1.0, SHEET_SIDE / min(height, width))
    cell = (round(width * scale), round(height * scale))
    gap, line = max(2, cell[1] // 32), 16  # pixels: between pictures, and for a row's caption
    columns = 1 + max(len(row.training) for row in alike)
    size = (columns * (cell[0] + gap) + 3 * gap, len(alike) * (cell[1] + line + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (picture, row) in enumerate(zip(drawn, alike, strict=True)):
        top = gap + i * (cell[1] + line + gap)
        for column, part in enumerate([picture, *(training[index] for index in row.training)]):
            left = gap + column * (cell[0] + gap) + (2 * gap if column else 0)
            sheet.paste(_thumbnail(part, cell), (left, top))
            text = f"{row.distances[column - 1]:.1f}" if column else f"seed {row.seed}"
            draw.text((left, top + cell[1] + 1), text, "#555555", font)
    write_file(folder / NEAREST_FILE, lambda path: sheet.save(path))


def _thumbnail(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    opaque = to_rgb(to_float(picture[None]))[0]
    return sampling.to_pil(to_uint8(opaque)).resize(size, Image.Resampling.LANCZOS)


def save_features(
    folder: Path,
    features: Tensor,
    network: MetricNetwork,
    fingerprint: str,
    places: Tensor | None = None,
    pictures: int | None = None,
) -> None:
    """Write training/features.safetensors: "features" [N, F] of training pictures; whose they are as metadata.

    Args:
        folder: of the model.
        features: of all pictures, or of those at `places`.
        network: that they are from.
        fingerprint: of the training set.
        places: which pictures of the set they are of, [N].
        pictures: how many the set has; as many as there are features when not given.
    """
    about = {"network": network.name, "resize": network.resize, "fingerprint": fingerprint}
    about["pictures"] = str(pictures or len(features))
    content = {"features": features.contiguous()} | ({} if places is None else {"places": places})
    write_file(folder / FEATURES_FILE, lambda path: safetensors.torch.save_file(content, path, about))


def training_settings(model: str, revision: str | None = None) -> TrainConfig | None:
    """What a model was trained with; None where that is not said.

    Args:
        model: a folder, where train_config.json may also be in the one above it, as for best/; or a Hub id.
        revision: branch, tag or commit on the Hub.
    """
    if not Path(model).is_dir():
        return _settings_on_hub(model, revision)
    for folder in (Path(model), Path(model).parent):
        if (folder / SETTINGS_FILE).is_file():
            return TrainConfig.of_run(read_json(folder / SETTINGS_FILE), str(folder / SETTINGS_FILE))
    return None


def _settings_on_hub(model: str, revision: str | None) -> TrainConfig | None:
    try:
        path = fetch(model, SHARED_SETTINGS_FILE, MAX_CONFIG, revision)
        found = read_json(path) if path else None
        if not isinstance(found, dict) or "size" not in found:  # as of an imported model, which others trained
            return None
        shared = {name: value for name, value in found.items() if name not in LOCAL}  # no stranger says what is where
        return TrainConfig.of_run(shared, f"{model}: {SHARED_SETTINGS_FILE}")
    except UserError:
        return None  # written by another version: the model itself may be fine


def _shown(images: Tensor, mirror: bool, progress: bool) -> Iterator[Tensor]:
    """Pictures in batches, with a bar."""
    what = "Looking at mirrored pictures" if mirror else "Looking at real pictures"
    with tqdm(total=len(images), desc=what, unit=" pictures", disable=not progress, leave=False) as bar:
        for batch in images.split(metrics.BATCH):
            yield batch
            bar.update(len(batch))


def _real(
    batches: Iterable[Tensor],
    fingerprint: str,
    network: MetricNetwork,
    cache: Path,
    device: torch.device,
    mirror: bool,
) -> Tensor:
    """Features of real pictures, or of their mirror images, from the cache or into it."""
    if mirror:
        batches, fingerprint = (batch.flip(-1) for batch in batches), f"{fingerprint} mirrored"
    return metrics.real_features(batches, fingerprint, network, cache, device)


# ------------------------------------------------------------------------------------------------------------ in words

ROWS = (  # label, how it is printed, how it is read
    ("FID", "fid", "0 is best; leans high on few pictures"),
    ("KID x1000", "kid", "0 is best; ± is its standard error"),
    ("precision", "precision", "0 to 1: drawn pictures that look real"),
    ("recall", "recall", "0 to 1: real pictures that could be drawn"),
    ("density", "density", "about 1 for real pictures"),
    ("coverage", "coverage", "0 to 1: real pictures with a drawn one nearby"),
    ("diversity", "diversity", "1: as far from each other as real ones"),
    ("copies", "near_share", "0.05 is usual; more hints at copies"),
    ("distance", "distance_ratio", "to training pictures; 1 is usual, 0 a copy"),
)
OF_COPIES = ("near_share", "distance_ratio")


def rows_of(training: bool) -> tuple[tuple[str, str, str], ...]:
    """The rows of a table; without those on copies where the pictures are not those of the training."""
    return tuple(row for row in ROWS if training or row[1] not in OF_COPIES)


def table(found: Evaluation, name: str) -> str:
    """The figures as lines of text, every figure with its network, picture counts and resizing.

    Args:
        found: the figures.
        name: of the model.
    """
    height, width = found.size
    first = found.results[0]
    cut = "" if found.psi == 1 else f", psi {found.psi:g}"
    lines = [
        f"{name}: {first.fake_images:,} drawn pictures (seeds {found.seeds}{cut}) against "
        f"{first.real_images:,} real ones of {found.source['dataset']}, {width}x{height}",
        "",
    ]
    names = [result.network + (" *" if result.network_taught_model else "") for result in found.results]
    wide = [max(len(name), 14) for name in names]
    results = [result.to_dict() for result in found.results]
    lines.append(" " * 11 + "".join(f"{name:>{w + 2}}" for name, w in zip(names, wide, strict=True)))
    for label, key, meaning in rows_of(found.training):
        cells = "".join(f"{figure(result, key):>{w + 2}}" for result, w in zip(results, wide, strict=True))
        lines.append(f"{label:<11}{cells}   {meaning}")
    lines.append("")
    percents = "/".join(f"{100 * at:.0f}" for at in metrics.QUANTILES)
    for result in found.results:
        nearest, usual = (
            " ".join(f"{distance:.1f}" for distance in distances)
            for distances in (result.nearest_generated, result.nearest_training)
        )
        lines.append(f"{result.network}: pictures resized {result.resize}")
        what = "training picture" if found.training else "real picture"
        lines.append(f"  distance to the nearest {what} at {percents} %: drawn {nearest}; {what}s {usual}")
    if not found.training:
        lines.append("These are not the pictures that it learned from, so nothing is said of copies")
    if any(result.network_taught_model for result in found.results):
        lines.append("* taught this model, so its figures flatter it")
    if any(result.network_taught_model is None for result in found.results):
        lines.append("Which network taught this model is not recorded; figures under that one would be too good")
    return "\n".join(lines)


def figure(result: Mapping[str, Any], key: str) -> str:
    """A figure of :meth:`fastgan.metrics.Metrics.to_dict` as it is printed."""
    value = result[key]
    if key == "kid":
        return f"{1000 * value:.1f} ± {1000 * result['kid_std']:.1f}"
    return f"{value:.1f}" if key == "fid" else f"{value:.3f}"
