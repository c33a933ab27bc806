"""Pictures as files that the page serves: named, whole, and with what it takes to draw them again."""

import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image
from torch import Tensor

from fastgan.app.models import Found
from fastgan.files import let_all_read, replace
from fastgan.sampling import png_info
from fastgan.video import write_video


class Files(set[str]):
    """Paths that Gradio's clean-up goes through while other threads add to them; empty folders go with their files."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def __isub__(self, gone: AbstractSet[str]) -> "Files":
        for path in gone:
            with suppress(OSError):  # another file is in it
                Path(path).parent.rmdir()
        return super().__isub__(gone)


SERVED = Files()  # Gradio itself forgets the files of components that a visitor's page has changed


def serve(data: bytes, name: str) -> str:
    """Path of a file with this content and name, in the folder that Gradio serves and cleans up."""
    folder = Path(get_upload_folder()) / hashlib.sha256(data).hexdigest()
    path = folder / name
    SERVED.add(str(path))
    if path.exists():
        os.utime(path)  # it is in use again, so the clean-up should wait
        return str(path)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = tempfile.NamedTemporaryFile(dir=folder, delete=False)
            break
        except FileNotFoundError:  # the clean-up has just taken the empty folder
            continue
    with file:
        file.write(data)
    let_all_read(Path(file.name))
    replace(Path(file.name), path)  # nobody ever sees half a file
    return str(path)


def tolerate_additions(demo: gr.Blocks) -> None:
    """Have the clean-up go through all sets of a finished page's files as it does through :data:`SERVED`.

    A plain set that grows meanwhile would end the clean-up for good.
    """
    demo.upload_file_set = Files(demo.upload_file_set)
    demo.temp_file_sets = [demo.upload_file_set, SERVED]
    for block in demo.blocks.values():
        block.temp_files = Files(block.temp_files)
        demo.temp_file_sets.append(block.temp_files)


def name_of(found: Found, *parts: str) -> str:
    """A file name such as "fastgan-anime-seed12", of plain characters and bounded length."""
    return "-".join(re.sub(r"[^\w.-]+", "_", part)[:60] for part in (found.name.rpartition("/")[2], *parts))


def serve_png(image: Image.Image, found: Found, name: str, **facts: object) -> str:
    """Path of the picture as PNG, whose metadata holds model, revision and `facts` (seed and psi, at least)."""
    buffer = io.BytesIO()
    # Level 4 is three times as quick as the default and the file a few per cent larger.
    image.save(buffer, "PNG", pnginfo=png_info(found.name, found.revision, **facts), compress_level=4)
    return serve(buffer.getvalue(), f"{name}.png")


def serve_film(frames: Sequence[Tensor], name: str, fps: int) -> str:
    """Path of the frames, uint8 [n, C, H, W] each, as a film in the format that the name ends in."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_video(frames, path := Path(folder, name), fps)
        return serve(path.read_bytes(), name)


def serve_zip(paths: Sequence[str], name: str, texts: Mapping[str, str]) -> str:
    """Path of a ZIP with these files, uncompressed as pictures already are, and with these texts by file name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            archive.write(path, Path(path).name)
        for file, text in texts.items():
            archive.writestr(file, text)
    return serve(buffer.getvalue(), f"{name}.zip")
