"""The redisai-exporter command: figures of a server and its models for Prometheus. docs/exporter.md is its manual.

Each scrape asks the server anew: once for INFO, and for AI.INFO of all models and scripts in short pipelines, between
which other clients get their turn. Only the list of their keys is kept for a while, because it takes a SCAN.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import prometheus_client
import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from redisai_module.client import RedisAI

from .address import add_own_address, add_url, without_password

PIPELINE = 100  # commands; each takes microseconds
LABELS = {"model": "key", "type": "type", "device": "device", "backend": "backend", "tag": "tag"}  # fields of AI.INFO
MICROSECONDS = 1e-6

# Field of AI.INFO: metric (of counters without _total, which Prometheus's library adds), help.
COUNTERS = {
    "calls": ("redisai_calls", "Runs; each request of a batch counts."),
    "errors": ("redisai_errors", "Runs that failed."),
    "samples": ("redisai_rows", "Rows that runs returned; models only."),
    "refused": ("redisai_refused", "Runs that were refused for the model's MAXQUEUE."),
    "timeouts": ("redisai_timeouts", "Runs of clients that were answered TIMEDOUT meanwhile."),
    "abandoned": ("redisai_abandoned", "Runs of clients that have left meanwhile."),
    "cache_hits": ("redisai_cache_hits", "Runs answered from the model's CACHE; not among the calls."),
    "cache_misses": ("redisai_cache_misses", "Runs not found in the model's CACHE."),
    "direct_executions": ("redisai_direct_executions", "Executions by the library's C API, without Python."),
    "deaths": ("redisai_deaths", "Engine processes that ended while they ran or compiled it."),
}
# The same, in microseconds.
DURATIONS = {
    "input_duration": ("redisai_input_seconds", "Converting inputs, as far as it is told apart."),
    "infer_duration": ("redisai_infer_seconds", "The library's own time, and what is not told apart."),
    "output_duration": ("redisai_output_seconds", "Copying outputs, as far as it is told apart."),
}
GAUGES = {
    "queued": ("redisai_queued", "Runs of the model that wait.", 1),
    "cache_entries": ("redisai_cache_entries", "Results in the model's CACHE.", 1),
    "cache_bytes": ("redisai_cache_bytes", "What these take.", 1),
    "last_run": ("redisai_last_run_timestamp_seconds", "The end of the latest run, since 1970; 0: none.", 1e-3),
}
QUANTILES = {"p50": "0.5", "p99": "0.99", "max": "1"}
TIMES = {
    "queue": ("redisai_queue_time_seconds", "Time that runs waited for a worker, since the statistics began."),
    "run": ("redisai_run_time_seconds", "Time that runs took, since the statistics began; a batch counts once."),
}
# Lines of INFO with one number.
SERVER = {
    "blocked_clients": ("redisai_blocked_clients", "Clients that wait: for runs, stores, or keys (BLPOP)."),
    "ai_ready": ("redisai_ready", "1 once what came with the data is compiled and warm, else 0."),
    "ai_queued_runs": ("redisai_queued_runs", "Runs that wait for a worker."),
    "ai_queued_bytes": ("redisai_queued_bytes", "Bytes of the inputs of runs that wait."),
    "uptime_in_seconds": ("redisai_uptime_seconds", "Since the start of the server."),
    "ai_backends_memory": ("redisai_backends_memory_bytes", "Memory of the process outside Redis's used_memory."),
    "ai_onnxruntime_memory": ("redisai_onnxruntime_memory_bytes", "Models that ONNX Runtime holds."),
}
# Fields of INFO's line for a device.
DEVICES = {
    "calls": ("redisai_device_calls", "Runs on the device, also of what is deleted since.", 1),
    "errors": ("redisai_device_errors", "Those that failed.", 1),
    "executions": ("redisai_device_executions", "Executions; a batch counts once.", 1),
    "duration": ("redisai_device_run_seconds", "What these took.", MICROSECONDS),
    "queue_duration": ("redisai_device_queue_seconds", "What runs have waited for the device's workers.", MICROSECONDS),
}
WORKER = r"ai_queue_(?P<device>.+)_bthread_n(?P<worker>\d+)"


def label(text: object) -> str:
    """Labels are UTF-8; keys and tags may be any bytes, and two must not become one."""
    return str(text).encode(errors="surrogateescape").decode(errors="backslashreplace")


def add_histogram(batches: Metric, labels: dict[str, str], info: dict[str, Any]) -> None:
    """AI.INFO has pairs of a power of two, or -1 for any number, and how many executions had up to so many rows."""
    told = dict(zip(info["batch_rows"][::2], info["batch_rows"][1::2], strict=True))
    count = 0
    for bound in (*(2**power for power in range(15)), -1):
        count += told.get(bound, 0)
        limit = str(float(bound)) if bound > 0 else "+Inf"
        batches.add_sample(f"{batches.name}_bucket", {**labels, "le": limit}, count)
    batches.add_sample(f"{batches.name}_count", labels, count)
    batches.add_sample(f"{batches.name}_sum", labels, info["samples"])


class ServerCollector(Collector):
    def __init__(self, client: redis.Redis, scan_seconds: float) -> None:
        self.client = client
        # redis-py takes a line apart at its first colon, which may be that of the device CPU:1.
        client.set_response_callback("INFO", lambda reply, **_: reply)
        self.scan_seconds = scan_seconds
        self.lock = threading.Lock()  # one scrape at a time
        self.keys: list[bytes] = []
        self.scanned = float("-inf")

    def describe(self) -> list[Metric]:
        return []  # so that nothing is asked before the first scrape

    def collect(self) -> Iterator[Metric]:
        with self.lock:
            begun = time.monotonic()
            try:
                metrics = [*self.server(), *self.models()]
                up = 1
            except (redis.RedisError, OSError) as error:
                print(f"redisai-exporter: {error}", file=sys.stderr, flush=True)
                metrics, up = [], 0
            took = time.monotonic() - begun
        yield GaugeMetricFamily("redisai_up", "1 if the server answered, with the module loaded.", up)
        yield GaugeMetricFamily("redisai_scrape_seconds", "What asking the server took.", took)
        yield from metrics

    # ---- INFO --------------------------------------------------------------------------------------------------------

    def server(self) -> Iterator[Metric]:
        reply = self.client.execute_command("INFO", "server", "clients", "modules")  # type: ignore[no-untyped-call]
        text = reply.decode(errors="backslashreplace")
        lines = dict(re.findall(r"^(\w+):(.*?)\r?$", text, re.MULTILINE))
        versions = {"module": lines.get("ai_RedisAI_version"), "server": lines.get("redis_version")}
        if not versions["module"]:
            raise redis.ResponseError("the server has not loaded the module; redisai-server starts one that has")
        yield InfoMetricFamily("redisai_version", "Versions.", {k: v for k, v in versions.items() if v})
        for name, (metric, documentation) in SERVER.items():
            gauge = GaugeMetricFamily(metric, documentation)
            if name in lines:
                gauge.add_metric([], float(lines[name]))
            yield gauge
        cpu = CounterMetricFamily("redisai_main_thread_cpu_seconds", "CPU time of the event loop.", labels=["mode"])
        for mode in "sys", "user":
            cpu.add_metric([mode], float(lines[f"ai_main_thread_used_cpu_{mode}"]))
        yield cpu
        yield from self.devices(text)
        yield from self.workers(text)
        yield from self.processes(text)

    def devices(self, text: str) -> Iterator[Metric]:
        counters = {name: CounterMetricFamily(*row[:2], labels=["device"]) for name, row in DEVICES.items()}
        for device, line in re.findall(r"^ai_device_(.+):(calls=.*?)\r?$", text, re.MULTILINE):
            fields = dict(part.split("=", 1) for part in line.split(","))
            for name, counter in counters.items():
                counter.add_metric([device], int(fields[name]) * DEVICES[name][2])
        yield from counters.values()

    def workers(self, text: str) -> Iterator[Metric]:
        cpu = CounterMetricFamily("redisai_worker_cpu_seconds", "CPU time of a worker.", labels=["device", "worker"])
        for device, worker, seconds in re.findall(rf"^{WORKER}_used_cpu_total:([\d.]+)", text, re.MULTILINE):
            cpu.add_metric([device, worker], float(seconds))
        busy = GaugeMetricFamily(
            "redisai_busy_seconds", "For how long a worker has been busy with one thing.", labels=["device", "worker"]
        )
        for device, worker, ms in re.findall(rf"^{WORKER}:.*\bms=(\d+)\r?$", text, re.MULTILINE):
            busy.add_metric([device, worker], int(ms) / 1000)
        yield from (cpu, busy)

    def processes(self, text: str) -> Iterator[Metric]:
        """Engine processes: with ISOLATION process."""
        state = GaugeMetricFamily("redisai_process_up", "1 if the engine process runs.", labels=["device"])
        memory = GaugeMetricFamily("redisai_process_memory_bytes", "What it has alone.", labels=["device"])
        starts = CounterMetricFamily("redisai_process_starts", "How often it was started.", labels=["device"])
        deaths = CounterMetricFamily("redisai_process_deaths", "How often it ended unasked.", labels=["device"])
        for device, line in re.findall(r"^ai_process_(.+):(state=.*?)\r?$", text, re.MULTILINE):
            fields = dict(part.split("=", 1) for part in line.split(","))
            state.add_metric([device], fields["state"] == "up")
            memory.add_metric([device], float(fields["memory"]))
            starts.add_metric([device], float(fields["starts"]))
            deaths.add_metric([device], float(fields["deaths"]))
        yield from (state, memory, starts, deaths)

    # ---- AI.INFO -----------------------------------------------------------------------------------------------------

    def models(self) -> Iterator[Metric]:
        if time.monotonic() - self.scanned >= self.scan_seconds:
            scans = ("AI._MODELSCAN", "AI._SCRIPTSCAN")
            found = [self.client.execute_command(scan) for scan in scans]  # type: ignore[no-untyped-call]
            self.keys = [key for reply in found for key, *_ in reply]
            self.scanned = time.monotonic()
        counters = {name: CounterMetricFamily(*row, labels=list(LABELS)) for name, row in COUNTERS.items()}
        durations = {name: CounterMetricFamily(*row, labels=list(LABELS)) for name, row in DURATIONS.items()}
        gauges = {name: GaugeMetricFamily(*row[:2], labels=list(LABELS)) for name, row in GAUGES.items()}
        times = {what: Metric(*row, "summary") for what, row in TIMES.items()}
        batches = Metric("redisai_batch_rows", "Rows of each execution; models only.", "histogram")
        for info in self.infos():
            labels = {name: label(info[field]) for name, field in LABELS.items()}
            for field, counter in counters.items():
                if info[field] >= 0:  # -1: a script has no samples
                    counter.add_metric(list(labels.values()), info[field])
            for field, counter in durations.items():
                counter.add_metric(list(labels.values()), info[field] * MICROSECONDS)
            for field, gauge in gauges.items():
                gauge.add_metric(list(labels.values()), info[field] * GAUGES[field][2])
            if info["samples"] >= 0:
                add_histogram(batches, labels, info)
            for what, summary in times.items():
                for field, quantile in QUANTILES.items():
                    value = info[f"{what}_time_{field}"] * MICROSECONDS
                    summary.add_sample(summary.name, {**labels, "quantile": quantile}, value)
            for summary, total, count in (
                (times["run"], "duration", "executions"),
                (times["queue"], "queue_duration", "calls"),
            ):
                summary.add_sample(f"{summary.name}_sum", labels, info[total] * MICROSECONDS)
                summary.add_sample(f"{summary.name}_count", labels, info[count])
        yield from (*counters.values(), *durations.values(), *gauges.values(), *times.values(), batches)

    def infos(self) -> Iterator[dict[str, Any]]:
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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="redisai-exporter", description="Figures of a server with the module, and of its models, for Prometheus."
    )
    add_url(parser)
    add_own_address(parser, 9122)
    parser.add_argument(
        "--scan-seconds", type=float, default=60, help="for how long a list of all models is kept (default: 60)"
    )
    options = parser.parse_args()
    try:
        client = redis.Redis.from_url(options.url, socket_timeout=5, socket_connect_timeout=5)
        registry = CollectorRegistry()
        registry.register(ServerCollector(client, options.scan_seconds))
        server, _ = prometheus_client.start_http_server(options.port, options.host, registry)
    except (OSError, OverflowError, ValueError) as error:
        print(f"redisai-exporter: {error}", file=sys.stderr)
        return 1
    address = f"http://{options.host}:{server.server_port}/metrics"
    print(f"figures of {without_password(options.url)} are on {address}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.shutdown()
    return 0
