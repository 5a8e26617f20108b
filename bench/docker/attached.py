"""A container from creation to removal, its standard streams held by this process.

It ends when its standard input closes, which happens when this process goes, however it goes; the
daemon then removes it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bench.docker.container import Confinement
from bench.docker.daemon import LAUNCHER, explain, refusal
from bench.docker.images import Image
from bench.docker.owner import launcher_name, remove, remove_ours
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_GRACE_S = 60  # for the daemon to tell the exit status of a container whose streams have ended
_NO_GPUS = ("could not select device driver", "no known GPU vendor")  # Docker to 28, and from 29


class Attached:
    """One running container. `stream` carries its streams as Docker frames them."""

    stream: socket.socket

    def __init__(
        self, client: DockerClient, image: Image, words: Sequence[str], confinement: Confinement
    ) -> None:
        """Start `words` in it; raises UserError with the daemon's reason if it does not start.

        They must end with their standard input.
        """
        import docker

        try:
            self._container = _create(client, image, words, confinement)
            self._owner, self.stream = _attach(client, self._container.id)
            self._exit = _await_exit(client, self._container.id)
            self._container.start()
        except (docker.errors.APIError, OSError) as error:
            self.stop()
            known = isinstance(error, docker.errors.APIError)
            reason = refusal(error) if known else explain(error)
            raise UserError(_explain(reason, image.name)) from error
        except KeyboardInterrupt:
            self.stop()
            remove_ours(client)  # it may have come before we knew what was made
            raise
        except BaseException:
            self.stop()
            raise

    @property
    def status(self) -> int | None:
        """The exit status, once the streams have ended; None if the daemon does not tell."""
        with suppress(OSError, ValueError, KeyError):
            found: int = self._exit.json()["StatusCode"]
            return found
        return None

    def stop(self) -> None:
        """End the program and remove the container.

        If the daemon does not, then the container ends with its standard input, and the next start
        removes it.
        """
        import docker

        for name in ("stream", "_owner", "_exit"):
            if hasattr(self, name):
                with suppress(OSError):
                    getattr(self, name).close()
        if hasattr(self, "_container"):
            with suppress(docker.errors.DockerException, OSError):
                remove(self._container)


def _create(
    client: DockerClient, image: Image, words: Sequence[str], confinement: Confinement
) -> Container:
    """Create a container; on Ctrl-C, wait until the daemon has made it."""
    with ThreadPoolExecutor(1) as beside:  # which Ctrl-C does not reach
        made = beside.submit(
            client.containers.create,
            image.image_id,
            list(words),
            stdin_open=True,
            auto_remove=True,
            labels={LAUNCHER: launcher_name()},
            **confinement.options(),
        )
        return made.result()


def _attach(client: DockerClient, container_id: str) -> tuple[Any, socket.socket]:
    """Return the connection to a container's three streams, made before it starts, and its owner.

    The connection lives as long as its owner is kept.
    """
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    owner = client.api.attach_socket(container_id, params=streams)
    connection: socket.socket = getattr(owner, "_sock", owner)
    connection.settimeout(None)
    return owner, connection


def _await_exit(client: DockerClient, container_id: str) -> Any:
    """Return the answer, not yet complete, that will tell how the container exits.

    Asked for before it starts, since the daemon forgets its status as soon as it is removed; the
    head of the answer says that the daemon will tell.
    """
    api: Any = client.api
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/containers/{container_id}/wait",
        params={"condition": "next-exit"},
        stream=True,
        timeout=_GRACE_S,
    )
    answer.raise_for_status()
    return answer


def _explain(reason: str, image: str) -> str:
    if any(words in reason for words in _NO_GPUS):
        return (
            f"Docker cannot give a GPU to {image}: install the NVIDIA container toolkit and run "
            "`sudo nvidia-ctk runtime configure --runtime=docker`, or use --runner local"
        )
    return f"a container of {image} does not start: {reason}"
