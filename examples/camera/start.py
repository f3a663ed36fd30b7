"""Starts the camera's whole system: redis-server with the module, model, flow or binding, camera, pages."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
import redis.asyncio
import uvicorn

from . import classifier
from .web import application

FLOW = Path(__file__).with_name("flow.py")
BINDING = (
    f"AI.BIND classes ON STREAM PREFIX 1 camera: FIELDS 1 pixels AS UINT8 {classifier.SIDE} {classifier.SIDE} 3 "
    "MODEL classifier SET 3 class label probability STREAM classes MAXLEN 1000"
)


def bound(port: int, option: str) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
    except OSError:
        sys.exit(f"camera: port {port} is in use; choose another one: ./examples/camera/run {option} {port + 1}")
    return found


@contextmanager
def running(name: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this one. Ctrl-C does not reach it, so that all end in order."""
    command = ["setpriv", "--pdeathsig", "TERM", "--", *map(str, words)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def connect(port: int, server: subprocess.Popen[bytes], log: Path) -> redis.Redis:
    client = redis.Redis("127.0.0.1", port)
    while True:
        try:
            client.ping()
            return client
        except redis.ConnectionError:  # BusyLoadingError, too
            if server.poll() is not None:
                told = log.read_text().splitlines()[-8:] if log.exists() else []
                sys.exit("\n".join(["camera: redis-server could not start; see here or above:", *told]))
            time.sleep(0.05)


def prepare(client: redis.Redis, binding: bool) -> None:
    """Stores the model and the labels, and tells the server what to do with frames."""
    model = classifier.to_onnx(pixels=binding)
    client.execute_command("AI.MODELSTORE", "classifier", "ONNX", "CPU", "BLOB", model)  # type: ignore[no-untyped-call]
    if binding:
        client.execute_command(*BINDING.split())  # type: ignore[no-untyped-call]
    else:
        client.rpush("labels", *classifier.labels())
        needs = ["REQUIREMENTS", "numpy", "pillow"]
        client.execute_command("RG.PYEXECUTE", FLOW.read_text(), *needs)  # type: ignore[no-untyped-call]


class Pages(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: uvicorn would raise them again, in the middle of its task."""
        for number in signal.SIGINT, signal.SIGTERM:
            asyncio.get_running_loop().add_signal_handler(number, setattr, self, "should_exit", True)
        yield


async def serve(
    listener: socket.socket, port: int, binding: bool, processes: dict[str, subprocess.Popen[bytes]]
) -> None:
    client = redis.asyncio.Redis(host="127.0.0.1", port=port)
    server = Pages(uvicorn.Config("", log_level="warning", timeout_graceful_shutdown=2))
    server.config.app = application(client, binding, lambda: server.should_exit)
    serving = asyncio.create_task(server.serve([listener]))
    while not serving.done():
        await asyncio.wait([serving], timeout=0.2)
        for name, process in processes.items():
            if process.poll() is not None:
                server.should_exit = True
                await serving
                sys.exit(f"camera: {name} has ended, so all ends")
    await client.aclose()
    await serving


def main() -> None:
    parser = argparse.ArgumentParser(prog="./examples/camera/run", description=__doc__)
    parser.add_argument("--binding", action="store_true", help="with a binding instead of a flow")
    parser.add_argument("--source", type=Path, help="a folder of photographs, or a video device such as /dev/video0")
    parser.add_argument("--rate", type=float, default=10, help="frames a second (10)")
    parser.add_argument("--port", type=int, default=8000, help="of the pages (8000)")
    parser.add_argument("--redis-port", type=int, default=0, help="of the server (a free one)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        listener = stack.enter_context(bound(options.port, "--port"))
        with bound(options.redis_port, "--redis-port") as found:
            port = found.getsockname()[1]
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="camera-")))
        log = folder / "redis.log"
        feature = ["BINDINGS" if options.binding else "FLOWS", "yes"]
        words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, "--logfile", log, "--", *feature]
        program = Path(sys.executable).with_name("redisai-server")
        server = stack.enter_context(running("redis-server", program, *words))
        try:
            with connect(port, server, log) as client:
                prepare(client, options.binding)
        except redis.RedisError as error:
            sys.exit(f"camera: the server refuses the model or what to do with frames: {error}")
        source = ["--source", options.source] if options.source else []
        pixels = ["--pixels"] if options.binding else []
        words = ["--redis-port", port, "--rate", options.rate, *source, *pixels]
        camera = stack.enter_context(running("camera", sys.executable, "-m", f"{__package__}.camera", *words))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(f"redis-server listens on 127.0.0.1:{port}. Ctrl-C ends all.")
        print(f"All frames: {address}/all\nCats only:  {address}/cats", flush=True)
        asyncio.run(serve(listener, port, options.binding, {"redis-server": server, "the camera": camera}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
