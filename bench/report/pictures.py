"""Figures as PNG in memory, for the page and for the reference results."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.claims.evidence import Evidence
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.results.store import Store
from engines.core.errors import UserError

COLOURS = 64  # of a small picture: lines and letters need no more


@dataclass(frozen=True)
class Drawing:
    """A figure as PNG, or why it could not be drawn."""

    png: bytes = b""
    problem: str = ""


def draw_all(store: Store, choice: Choice) -> dict[str, Drawing]:
    """Every figure that can run, drawn from the results that are there."""
    from plot.draw import draw

    evidence, found = Evidence(store, choice), {}
    for name, figure in registry.FIGURES.items():
        if not figure.plot:
            continue
        with tempfile.TemporaryDirectory() as place:
            try:
                paths = draw(name, store, Path(place), choice, searched=evidence.searched)
            except UserError as error:
                found[name] = Drawing(problem=str(error))
                continue
            (png,) = (path for path in paths if path.suffix == ".png")
            found[name] = Drawing(png.read_bytes())
    return found


def shrink(png: bytes, *, width: int) -> bytes:
    """The same picture at most `width` pixels wide, in few colours."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGB")
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.quantize(COLOURS).save(content, format="PNG", optimize=True)
    return content.getvalue()
