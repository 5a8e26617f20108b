"""Makes each Dockerfile from containers/Dockerfile.in: `python -m tools.dockerfiles`.

Each is whole, so that `docker build -f Dockerfile.orca .` works by hand, and what they share is
written once. A test compares the files with what this module makes.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"astra": "Astra", "orca": "Orca", "ft": "FasterTransformer"}
_CUDA = "nvidia/cuda:13.0.0-{kind}-ubuntu24.04@sha256:{digest}"
_DEVEL = _CUDA.format(
    kind="devel", digest="1e8ac7a54c184a1af8ef2167f28fa98281892a835c981ebcddb1fad04bdd452d"
)
_RUNTIME = _CUDA.format(
    kind="runtime", digest="95318efecfd68ab3d109da5277863257b06137c84f34a87f38de970d5cd035d3"
)
_PYTHON = "3.12.11"  # where the base image's own is too old
_END_OF_COMMENT = "#>\n"


def render(system: str, template: str) -> str:
    """Return the Dockerfile of one system: its lines of the template, with its words filled in."""
    for_ft = system == "ft"
    lines = []
    for line in template.partition(_END_OF_COMMENT)[2].splitlines():
        mark, text = next(
            (
                (mark, line.removeprefix(mark))
                for mark in ("@FT@", "@~FT@")
                if line.startswith(mark)
            ),
            ("", line),
        )
        if mark == "" or (mark == "@FT@") == for_ft:
            lines.append(text)
    words = {
        "@SYSTEM@": system,
        "@NAME@": NAMES[system],
        "@DEVEL@": f"${{FT_IMAGE:-{_DEVEL}}}" if for_ft else _DEVEL,
        "@RUNTIME@": f"${{FT_IMAGE:-{_RUNTIME}}}" if for_ft else _RUNTIME,
        "@PATH@": "/opt/venv/bin:/opt/ft/bin" if for_ft else "/opt/venv/bin",
        "@PYTHON@": _PYTHON,
    }
    text = "\n".join(lines) + "\n"
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def render_all() -> dict[Path, str]:
    """Return every Dockerfile's path and text."""
    template = (ROOT / "containers" / "Dockerfile.in").read_text(encoding="utf-8")
    return {ROOT / f"Dockerfile.{system}": render(system, template) for system in NAMES}


if __name__ == "__main__":
    for path, text in render_all().items():
        path.write_text(text, encoding="utf-8")
