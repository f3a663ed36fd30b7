"""What a server tells of itself and its models: for redisai-exporter and redisai-top.

Each time the server is asked once for INFO, and for AI.INFO of all models and scripts in short pipelines, between which
other clients get their turn. Only the list of their keys is kept for a while, because it takes a SCAN.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redisai_module.client import RedisAI

PIPELINE = 100  # commands; each takes microseconds
_WORKER = r"ai_queue_(.+)_bthread_n(\d+)"


class ServerFigures(NamedTuple):
    lines: dict[str, str]  # of INFO, without those of devices
    cpu: dict[tuple[str, str], float]  # device and number of a worker: seconds
    busy: dict[tuple[str, str], tuple[str, float]]  # the same: what it does, and for how many seconds
    devices: dict[str, dict[str, str]]  # what each has done: the fields
    processes: dict[str, dict[str, str]]  # engine processes, with ISOLATION process: the fields by device


def label(text: object) -> str:
    """Keys and tags may be any bytes, and two must not become one."""
    return str(text).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _by_device(lines: list[tuple[str, str]]) -> dict[str, dict[str, str]]:
    return {device: dict(part.split("=", 1) for part in line.split(",")) for device, line in lines}


class Figures:
    def __init__(self, url: str, scan_seconds: float) -> None:
        # One more try, for a connection that was closed while it was idle. redis-py would try for seconds.
        retry = Retry(NoBackoff(), 1)
        self.client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, retry=retry)
        # redis-py takes a line apart at its first colon, which may be that of the device CPU:1.
        self.client.set_response_callback("INFO", lambda reply, **_: reply)
        self.scan_seconds = scan_seconds
        self.keys: list[bytes] = []
        self.scanned = float("-inf")

    def server(self) -> ServerFigures:
        sections = ("server", "clients", "memory", "modules")
        reply = self.client.execute_command("INFO", *sections)  # type: ignore[no-untyped-call]
        text = reply.decode(errors="backslashreplace")
        lines = dict(re.findall(r"^(\w+):(.*?)\r?$", text, re.MULTILINE))
        if "ai_RedisAI_version" not in lines:
            raise redis.ResponseError("the server has not loaded the module; redisai-server starts one that has")
        cpu = re.findall(rf"^{_WORKER}_used_cpu_total:([\d.]+)", text, re.MULTILINE)
        busy = re.findall(rf"^{_WORKER}:(.*)\bms=(\d+)\r?$", text, re.MULTILINE)
        devices = re.findall(r"^ai_device_(.+):(calls=.*?)\r?$", text, re.MULTILINE)
        processes = re.findall(r"^ai_process_(.+):(state=.*?)\r?$", text, re.MULTILINE)
        return ServerFigures(
            lines,
            {(device, worker): float(seconds) for device, worker, seconds in cpu},
            {(device, worker): (what.rstrip(","), int(ms) / 1000) for device, worker, what, ms in busy},
            _by_device(devices),
            _by_device(processes),
        )

    def bindings(self) -> Iterator[dict[bytes, Any]]:
        """AI.BINDINFO of all bindings."""
        for name in self.client.execute_command("AI.BINDLIST"):  # type: ignore[no-untyped-call]
            reply = self.client.execute_command("AI.BINDINFO", name)  # type: ignore[no-untyped-call]
            yield dict(zip(reply[::2], reply[1::2], strict=True))

    def infos(self) -> Iterator[dict[str, Any]]:
        """AI.INFO FULL of all models and scripts."""
        if time.monotonic() - self.scanned >= self.scan_seconds:
            scans = ("AI._MODELSCAN", "AI._SCRIPTSCAN")
            found = [self.client.execute_command(scan) for scan in scans]  # type: ignore[no-untyped-call]
            self.keys = [key for reply in found for key, *_ in reply]
            self.scanned = time.monotonic()
        keys = iter(self.keys)
        while some := list(islice(keys, PIPELINE)):
            pipeline = self.client.pipeline(transaction=False)
            for key in some:
                RedisAI(pipeline).info(key, full=True)
            for reply in pipeline.execute(raise_on_error=False):
                if isinstance(reply, redis.ConnectionError | redis.TimeoutError):
                    raise reply
                if isinstance(reply, dict):  # else it was deleted or overwritten since the scan
                    yield reply
