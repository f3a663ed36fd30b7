"""The redisai-exporter command: figures of a server and its models for Prometheus. docs/exporter.md is its manual.

Each scrape asks the server anew. figures.py says how that stalls nobody.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import prometheus_client
import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from .address import add_own_address, add_url, without_password
from .figures import Figures, ServerFigures, label

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

# Fields of AI.BINDINFO.
BINDINGS = {
    b"results": (CounterMetricFamily, "redisai_binding_results", "Keys or entries that got a result.", 1),
    b"errors": (CounterMetricFamily, "redisai_binding_errors", "Keys or entries that could not be run.", 1),
    b"pending": (GaugeMetricFamily, "redisai_binding_pending", "Keys, or streams, that wait for a result.", 1),
    b"lag_ms": (GaugeMetricFamily, "redisai_binding_lag_seconds", "Age of the oldest change without one.", 1e-3),
}


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
    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.lock = threading.Lock()  # one scrape at a time

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
        server = self.figures.server()
        lines = server.lines
        versions = {"module": lines.get("ai_RedisAI_version"), "server": lines.get("redis_version")}
        yield InfoMetricFamily("redisai_version", "Versions.", {k: v for k, v in versions.items() if v})
        for name, (metric, documentation) in SERVER.items():
            gauge = GaugeMetricFamily(metric, documentation)
            if name in lines:
                gauge.add_metric([], float(lines[name]))
            yield gauge
        yield CounterMetricFamily(
            "redisai_refused_commands",
            "Commands that a limit refused, of a model or of the server.",
            float(lines["ai_refused_runs"]),
        )
        cpu = CounterMetricFamily("redisai_main_thread_cpu_seconds", "CPU time of the event loop.", labels=["mode"])
        for mode in "sys", "user":
            cpu.add_metric([mode], float(lines[f"ai_main_thread_used_cpu_{mode}"]))
        yield cpu
        yield from self.devices(server)
        yield from self.workers(server)
        yield from self.processes(server)
        yield from self.bindings()

    def bindings(self) -> Iterator[Metric]:
        metrics = {field: kind(*names, labels=["binding"]) for field, (kind, *names, _) in BINDINGS.items()}
        for info in self.figures.bindings():
            for field, metric in metrics.items():
                metric.add_metric(
                    [label(info[b"name"].decode(errors="surrogateescape"))], info[field] * BINDINGS[field][3]
                )
        yield from metrics.values()

    def devices(self, server: ServerFigures) -> Iterator[Metric]:
        counters = {name: CounterMetricFamily(*row[:2], labels=["device"]) for name, row in DEVICES.items()}
        for device, fields in server.devices.items():
            for name, counter in counters.items():
                counter.add_metric([device], int(fields[name]) * DEVICES[name][2])
        yield from counters.values()

    def workers(self, server: ServerFigures) -> Iterator[Metric]:
        cpu = CounterMetricFamily("redisai_worker_cpu_seconds", "CPU time of a worker.", labels=["device", "worker"])
        for worker, seconds in server.cpu.items():
            cpu.add_metric(list(worker), seconds)
        busy = GaugeMetricFamily(
            "redisai_busy_seconds", "For how long a worker has been busy with one thing.", labels=["device", "worker"]
        )
        for worker, (_, seconds) in server.busy.items():
            busy.add_metric(list(worker), seconds)
        yield from (cpu, busy)

    def processes(self, server: ServerFigures) -> Iterator[Metric]:
        """Engine processes: with ISOLATION process."""
        state = GaugeMetricFamily("redisai_process_up", "1 if the engine process runs.", labels=["device"])
        memory = GaugeMetricFamily("redisai_process_memory_bytes", "What it has alone.", labels=["device"])
        starts = CounterMetricFamily("redisai_process_starts", "How often it was started.", labels=["device"])
        deaths = CounterMetricFamily("redisai_process_deaths", "How often it ended unasked.", labels=["device"])
        for device, fields in server.processes.items():
            state.add_metric([device], fields["state"] == "up")
            memory.add_metric([device], float(fields["memory"]))
            starts.add_metric([device], float(fields["starts"]))
            deaths.add_metric([device], float(fields["deaths"]))
        yield from (state, memory, starts, deaths)

    # ---- AI.INFO -----------------------------------------------------------------------------------------------------

    def models(self) -> Iterator[Metric]:
        counters = {name: CounterMetricFamily(*row, labels=list(LABELS)) for name, row in COUNTERS.items()}
        durations = {name: CounterMetricFamily(*row, labels=list(LABELS)) for name, row in DURATIONS.items()}
        gauges = {name: GaugeMetricFamily(*row[:2], labels=list(LABELS)) for name, row in GAUGES.items()}
        times = {what: Metric(*row, "summary") for what, row in TIMES.items()}
        batches = Metric("redisai_batch_rows", "Rows of each execution; models only.", "histogram")
        for info in self.figures.infos():
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
        registry = CollectorRegistry()
        registry.register(ServerCollector(Figures(options.url, options.scan_seconds)))
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
