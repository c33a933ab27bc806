"""A folder of pictures as a dataset on the Hub: parquet and a card, the pictures byte for byte as they are."""

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from PIL import Image, UnidentifiedImageError

from fastgan.cards import CARD_FILE, is_from_here, render_dataset_card
from fastgan.errors import UserError
from fastgan.preparing import FORMATS
from fastgan.publish import check_license, commit_files, list_files, make_public, prepare_repo, read_remote
from fastgan.sources import SPLIT_NAMES, picture_names, unreadable

SHARD_BYTES = 300_000_000  # of pictures in one parquet file, and in memory at a time
GPS = 0x8825  # the part of EXIF data that says where a picture was taken


class PushedDataset(NamedTuple):
    """A dataset on the Hub, and what a person should know of it."""

    url: str
    commit: str
    private: bool
    pictures: int
    files: list[str]
    splits: list[str]
    remarks: list[str]


@dataclass
class _Look:
    """What a glance at the pictures shows; it grows as they are read."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    formats: Counter = field(default_factory=Counter)
    transparent: int = 0
    located: int = 0  # say where they were taken
    left_out: list[str] = field(default_factory=list)


def push_dataset(folder: Path, repo: str, public: bool = False, license: str | None = None) -> PushedDataset:
    """Put the pictures of a folder, and of the folders below it, on the Hub in one commit.

    The card is that of the Hub, or else README.md of the folder, where there is one; it gets a section about the
    pictures, and what was written by hand stays. A LICENSE beside the pictures goes along. Files that are no picture,
    or a damaged one, are left out and named.

    Args:
        folder: of pictures; if its top folders are named train, test and the like, they become splits.
        repo: Hub id; a name alone is one's own.
        public: everyone may see it; a new dataset is private otherwise.
        license: of the pictures, for the card's metadata.

    Raises:
        UserError: no pictures there, no right to write, somebody's data, or the Hub would not have them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    names = picture_names(folder)
    if not names:
        raise UserError(f"{folder}: no pictures in it")
    splits: dict[str, list[str]] = {}
    tops = {PurePosixPath(name).parts[0] for name in names}
    for name in names:
        splits.setdefault(PurePosixPath(name).parts[0] if tops <= SPLIT_NAMES else "train", []).append(name)
    full, private = prepare_repo(repo, "dataset", public)
    check_license(full, license)
    existing, own = read_remote(full, CARD_FILE, "dataset"), folder / CARD_FILE
    _check_ours(full, existing)
    if not existing and own.is_file():
        existing = own.read_text(encoding="utf-8-sig", errors="replace")

    look, counts = _Look(), {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        files: dict[str, Path | bytes] = {}
        for split, members in splits.items():
            shards = []
            for rows in _shards(folder, members, look):
                shards.append(Path(scratch, f"{split}-{len(shards)}.parquet"))
                try:
                    _write_parquet(rows, shards[-1])
                except OSError as error:
                    why = error.strerror or error
                    raise UserError(
                        f"{scratch}: {why}; it takes all pictures, TMPDIR can name a larger one"
                    ) from error
                counts[split] = counts.get(split, 0) + len(rows)
            for number, path in enumerate(shards):
                files[f"data/{split}-{number:05d}-of-{len(shards):05d}.parquet"] = path
        if not counts:
            raise UserError(f"{folder}: none of {len(names)} pictures can be read; {look.left_out[0]}")
        facts = {"splits": counts, **_in_words(look)}
        files[CARD_FILE] = render_dataset_card(full, facts, existing, license).encode()
        files |= {path.name: path for path in sorted(folder.glob("LICENSE*")) if path.is_file()}
        total = sum(counts.values())
        commit = commit_files(full, files, f"{total} pictures", "dataset", stale=lambda path: path.startswith("data/"))
    remarks = look.left_out
    private = private and not (public and make_public(full, "dataset"))
    if look.located:
        remarks.append(f"Pictures that say where they were taken (EXIF), and are there as they are: {look.located}")
    url = f"{HfApi().endpoint}/datasets/{full}"
    return PushedDataset(url, commit, private, total, sorted(files), list(counts), remarks)


def _check_ours(repo: str, card: str | None) -> None:
    """Refuse to write over data that did not come from here."""
    if is_from_here(card or ""):
        return
    there = [path for path in list_files(repo, "dataset") if path not in (CARD_FILE, ".gitattributes")]
    if there:
        raise UserError(f"{repo}: holds other files, like {there[0]}, which a push would replace; choose another name")


def _shards(folder: Path, names: list[str], look: _Look) -> Iterator[list[dict[str, Any]]]:
    """Rows of one parquet file after the other; what can't be read is left out."""
    from tqdm import tqdm

    rows, size = [], 0
    for name in tqdm(names, "Reading pictures", unit=" pictures", leave=False, disable=None):
        try:
            content = (folder / name).read_bytes()
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                picture.load()
                look.located += bool(picture.getexif().get_ifd(GPS))
                look.transparent += picture.has_transparency_data
                look.sizes.append(picture.size)
                look.formats[picture.format] += 1
        except Exception as error:  # Pillow's decoders fail on damaged files with almost any exception
            damaged = "no picture, or damaged" if isinstance(error, UnidentifiedImageError) else error
            reason = unreadable(name) or damaged
            look.left_out.append(f"{name} was left out: {reason}")
            continue
        rows.append({"bytes": content, "path": PurePosixPath(name).name.encode(errors="backslashreplace").decode()})
        size += len(content)
        if size >= SHARD_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        Dataset.from_dict({"image": rows}, features=Features({"image": ImageFeature()})).to_parquet(path)
    finally:
        if bars:
            enable_progress_bar()


def _in_words(look: _Look) -> dict[str, str]:
    """What the card says of the pictures."""
    count = len(look.sizes)
    small, large = min(look.sizes, key=min), max(look.sizes, key=max)
    same = len(set(look.sizes)) == 1
    kinds = ", ".join(f"{number} {kind}" for kind, number in look.formats.most_common())
    transparent = {0: "none", count: "all"}.get(look.transparent, f"{look.transparent} of {count}")
    return {
        "sizes": f"all {small[0]}×{small[1]}" if same else f"from {small[0]}×{small[1]} to {large[0]}×{large[1]}",
        "formats": kinds,
        "transparency": transparent,
    }
