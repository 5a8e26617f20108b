"""Options that say where points run, shared by the commands that run many."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.backend import resolve_backend
from bench.commands.options import Function, ray_points_option
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.devices.measured import Measurer
    from bench.sweep.place import Place

PLACE_OPTIONS = ("jobs", "runner", "build_arg", "ray")
RUNNERS = ("auto", "docker", "local")
_CHECK_TIMEOUT_S = 5


def _checked(
    ctx: click.Context, option: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse what is no NAME=VALUE even where no image will be built."""
    del ctx, option
    from bench.docker.images import parse_build_args

    parse_build_args(words)
    return words


def build_arg_option(function: Function) -> Function:
    """Add `--build-arg`, which may be given many times or as BENCH_BUILD_ARGS."""
    return click.option(
        "--build-arg",
        multiple=True,
        envvar="BENCH_BUILD_ARGS",
        metavar="NAME=VALUE",
        callback=_checked,
        help="For images that are built (docs/containers.md); also from BENCH_BUILD_ARGS.",
    )(function)


def device_option(function: Function) -> Function:
    """Add `--device`, which says whose images: for GPUs or for machines without."""
    return click.option(
        "--device",
        type=click.Choice(("auto", "cuda", "cpu")),
        default="auto",
        show_default=True,
        help="Images for GPUs, or for machines without. auto: what this machine has.",
    )(function)


def note(line: str) -> None:
    """Say a line on standard error."""
    click.echo(line, err=True)


def settle_device(name: str) -> str:
    """Return "cuda" or "cpu"; `auto` is what this machine has."""
    from bench.docker.gpus import find_gpus

    return ("cuda" if find_gpus() else "cpu") if name == "auto" else name


def place_options(function: Function) -> Function:
    """Add the options named in `PLACE_OPTIONS`."""
    options = (
        click.option(
            "--jobs",
            "-j",
            type=click.IntRange(min=1),
            metavar="N",
            help="Points to run at a time.  [default: one for each core]",
        ),
        click.option(
            "--runner",
            type=click.Choice(RUNNERS),
            default="auto",
            show_default=True,
            help="Where points run: in containers (docker) or processes (local). auto: containers "
            "where Docker and GPUs are.",
        ),
        build_arg_option,
        ray_points_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def choose_place(given: Mapping[str, Any]) -> Place:
    """The place that the options ask for; raises UserError if it cannot be had."""
    if given["runner"] == "docker":
        from bench.docker.images import parse_build_args
        from bench.sweep.containers import Containers

        return Containers(given["jobs"], parse_build_args(given["build_arg"]))
    from bench.sweep.local import LocalProcesses

    if given["ray"] is not None:
        from bench.sweep.ray import RayCluster

        cluster = RayCluster(given["ray"], jobs=given["jobs"])
        click.get_current_context().call_on_close(cluster.close)
        return cluster
    return LocalProcesses(jobs=given["jobs"])


def choose_measurer(given: Mapping[str, Any], root: Path) -> Measurer:
    """What measures beside the points, in containers if points run in them."""
    if given["runner"] == "docker":
        from bench.devices.contained import InContainer
        from bench.docker.images import parse_build_args

        return InContainer(root, note, parse_build_args(given["build_arg"]))
    from bench.devices.measured import Here

    return Here(root)


def settle(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with `runner` and `backend` decided; `runner_reason` says why, if asked.

    Containers bring their own PyTorch: their backend does not depend on what is installed here.
    """
    runner, backend = given["runner"], given["backend"]
    if given["ray"] is not None:
        if runner == "docker":
            raise UserError("a cluster runs points in its nodes' processes: omit --runner or --ray")
        return {**given, "runner": "local", "backend": resolve_backend(backend)}
    if runner == "auto":
        why_local = _why_local(backend)
        runner = "local" if why_local else "docker"
        given = {**given, "runner_reason": why_local or "Docker and GPUs are here"}
    if runner == "local":
        return {**given, "runner": runner, "backend": resolve_backend(backend)}
    if backend == "auto":
        from bench.docker.gpus import find_gpus

        backend = "cuda" if find_gpus() else "sim"
    return {**given, "runner": runner, "backend": backend}


def tell_runner(settled: Mapping[str, Any]) -> None:
    """Say on standard error where points run, and why, if `auto` decided."""
    if reason := settled.get("runner_reason"):
        click.echo(f"runner {settled['runner']}: {reason}", err=True)


def _why_local(backend: str) -> str:
    """The reason to do without containers, or nothing."""
    from bench.docker.daemon import NoDaemonError, connect, trouble
    from bench.docker.gpus import docker_gives_gpus, find_gpus

    if backend in ("sim", "cpu"):
        return f"containers are for GPUs (--runner docker uses them with --backend {backend} too)"
    if not find_gpus():
        return "no GPU here"
    try:
        with closing(connect(timeout_s=_CHECK_TIMEOUT_S)) as client:
            can = docker_gives_gpus(client)
    except NoDaemonError as error:
        return str(error)
    except Exception as error:
        if (reason := trouble(error)) is None:
            raise
        return reason
    return "" if can else "Docker here gives no GPUs to containers (bench doctor: the remedy)"
