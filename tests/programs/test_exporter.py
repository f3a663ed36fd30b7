"""redisai-exporter: what a scrape gives, in every state of the server; and deploy/prometheus, deploy/grafana and
docs/exporter.md, with a real Prometheus where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from testkit import models
from testkit.engines import engine_pids
from testkit.server import Client, Server, free_port
from testkit.waiting import wait_for
from tests.bindings.kit import BINDINGS, LINE, bind
from tests.conftest import StartServer
from tests.tools.test_docs import ROOT, page_blocks

PAGE = "docs/exporter.md"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/redisai.json"
BIN = str(Path(sys.executable).parent)  # where scripts/setup puts Debian's programs if they are not installed
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
PROGRAM = f"{BIN}/redisai-exporter"
Export = Callable[..., str]


def which(program: str) -> str:
    return shutil.which(program, path=f"{os.environ['PATH']}:{BIN}") or ""


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not which(package), reason=f"needs Debian's package {package}")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def export(processes: list[subprocess.Popen[str]]) -> Export:
    """Starts it for a server and returns the address of its metrics."""

    def start(server: Server, *words: str) -> str:
        command = [PROGRAM, "--url", f"redis://127.0.0.1:{server.port}", "--port", "0", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        return process.stdout.readline().split()[-1]

    return start


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def exported(text: str) -> set[str]:
    """The names that a scrape has, or would have with other models."""
    declared = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    return {name for name, _ in declared} | {
        f"{name}{end}" for name, kind in declared if kind == "summary" for end in ("_sum", "_count")
    }


def store_and_run(r: Client) -> None:
    r.execute_command("AI.MODELSTORE", "fraud", "ONNX", "CPU:1", "TAG", "v3", "BLOB", models.onnx_add())
    for shape in (3, 3, 5):
        r.execute_command("AI.TENSORSET", "x", "FLOAT", shape, 2)
        r.execute_command("AI.MODELEXECUTE", "fraud", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    with pytest.raises(Exception, match="Number of keys|missing|inputs|input"):
        r.execute_command("AI.TENSORSET", "x", "FLOAT", 3, 3)
        r.execute_command("AI.MODELEXECUTE", "fraud", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")


def test_figures(server: Server, r: Client, export: Export) -> None:
    store_and_run(r)
    odd = b'k\xff\n"\\'
    r.execute_command("AI.MODELSTORE", odd, "ONNX", "CPU", "BLOB", models.onnx_add())
    url = export(server, "--scan-seconds", "3600")
    found = samples(get(url))
    labels = {"model": "fraud", "type": "MODEL", "device": "CPU:1", "backend": "ONNX", "tag": "v3"}
    info = r.execute_command("AI.INFO", "fraud", "FULL")
    told = dict(zip(info[::2], info[1::2], strict=True))

    def of(name: str, **more: str) -> float:
        return found[name, frozenset({**labels, **more}.items())]

    assert (of("redisai_calls_total"), of("redisai_errors_total"), of("redisai_rows_total")) == (4, 1, 11)
    assert of("redisai_run_time_seconds_count") == told[b"executions"]
    assert of("redisai_run_time_seconds_sum") == pytest.approx(told[b"duration"] / 1e6)
    assert of("redisai_queue_time_seconds", quantile="0.99") == pytest.approx(told[b"queue_time_p99"] / 1e6)
    assert of("redisai_queue_time_seconds_sum") == pytest.approx(told[b"queue_duration"] / 1e6)
    assert of("redisai_queue_time_seconds_count") == 4
    parts = [of(f"redisai_{part}_seconds_total") for part in ("input", "infer", "output")]
    assert sum(parts) == pytest.approx(told[b"duration"] / 1e6)
    sizes = [of("redisai_batch_rows_bucket", le=le) for le in ("1.0", "2.0", "4.0", "8.0", "16384.0", "+Inf")]
    assert sizes == [1, 1, 3, 4, 4, 4], "the failed one gave no rows"
    assert (of("redisai_batch_rows_count"), of("redisai_batch_rows_sum")) == (4, 11)
    zeros = ("timeouts_total", "abandoned_total", "cache_hits_total", "cache_bytes", "queued")
    assert [of(f"redisai_{name}") for name in zeros] == [0] * 5
    assert 0 <= time.time() - of("redisai_last_run_timestamp_seconds") < 60
    assert of("redisai_run_time_seconds", quantile="1") == pytest.approx(told[b"run_time_max"] / 1e6)
    assert found["redisai_up", frozenset()] == 1
    assert found["redisai_device_calls_total", frozenset({("device", "CPU:1")})] >= 4
    assert ("redisai_worker_cpu_seconds_total", frozenset({("device", "CPU:1"), ("worker", "1")})) in found
    names = {value for _, some in found for label, value in some if label == "model"}
    assert names == {"fraud", 'k\\xff\n"\\'}

    r.delete("fraud")
    r.set(odd, "a string")
    assert {name for name, some in samples(get(url)) if some} >= {"redisai_version_info"}, "nothing of what is gone"
    assert not [some for name, some in samples(get(url)) if name == "redisai_calls_total"]


def test_down(start_server: StartServer, export: Export) -> None:
    server = start_server(module=None)
    url = export(server)
    assert samples(get(url))["redisai_up", frozenset()] == 0, "without the module"
    server.kill()
    assert samples(get(url))["redisai_up", frozenset()] == 0


def test_engine_processes(start_server: StartServer, export: Export) -> None:
    server = start_server(options=["ISOLATION", "process"])
    with server.client() as r:
        store_and_run(r)
        found = samples(get(export(server)))
    of_device = frozenset({("device", "CPU:1")})
    assert found["redisai_process_up", of_device] == 1 and found["redisai_process_starts_total", of_device] == 1
    assert found["redisai_process_deaths_total", of_device] == 0
    assert found["redisai_process_memory_bytes", of_device] > 2**20


def alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return rules


def names() -> set[str]:
    return {rule["alert"] for rule in alerts()}


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in alerts()] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_names(server: Server, export: Export) -> None:
    """What the dashboard, the alerts and the page name is what there is."""
    there = exported(get(export(server)))
    named = {name for text in expressions() for name in re.findall(r"\bredisai_\w+", text)}
    assert len(named) > 10 and named <= there
    rows = re.findall(r"^\| (`redisai_.*?) \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    in_the_page = set(re.findall(r"`(redisai_\w+)`", " ".join(rows)))
    assert (
        in_the_page
        | {f"redisai_run_time_seconds{end}" for end in ("_sum", "_count")}
        | {f"redisai_queue_time_seconds{end}" for end in ("_sum", "_count")}
        == there
    )


def test_dashboard() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert used <= variables


@needs("prometheus")
def test_prometheus(
    start_server: StartServer, export: Export, processes: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Prometheus takes the rules and the metrics, scrapes by the page's configuration, and knows every expression. Each
    alert fires when that happens which it is for. Only the times of the rules are shorter here."""
    server = start_server(options=["ISOLATION", "process", "MODEL_EXECUTION_TIMEOUT", "60000"])
    with server.client() as r:
        store_and_run(r)
        r.execute_command("AI.MODELSTORE", "loop", "ONNX", "CPU", "MAXQUEUE", 25, "BLOB", models.onnx_loop())
        r.execute_command("AI.TENSORSET", "n", "INT64", "VALUES", 10**9)
    url = export(server)
    checked = subprocess.run([which("promtool"), "check", "metrics"], input=get(url), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    (config,) = page_blocks(PAGE, "Prometheus and Grafana: redisai-exporter", "yaml")
    config = config.replace("127.0.0.1:9122", urllib.parse.urlparse(url).netloc)
    times = "global: {scrape_interval: 1s, evaluation_interval: 200ms}\n"
    (tmp_path / "prometheus.yml").write_text(times + config)
    rules = re.sub(r"for: \d+m", "for: 0s", re.sub(r"\[\d+m\]", "[30s]", ALERTS.read_text()))
    (tmp_path / "alerts.yml").write_text(rules.replace("redisai_busy_seconds > 60", "redisai_busy_seconds > 1"))
    checked = subprocess.run(
        [which("promtool"), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert checked.returncode == 0 and "6 rules found" in checked.stdout, checked.stderr
    port = free_port()
    words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    processes.append(subprocess.Popen([which("prometheus"), *words], text=True))

    def read(path: str) -> Any:
        answer = json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(expression: str) -> Any:
        expression = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
        return read("query?" + urllib.parse.urlencode({"query": expression}))["result"]

    def answers() -> bool:
        try:
            return bool(ask("redisai_up == 1"))
        except OSError:
            return False

    fired: dict[str, str] = {}

    def firing() -> set[str]:
        alerts = [alert for alert in read("alerts")["alerts"] if alert["state"] == "firing"]
        for alert in alerts:
            fired[alert["labels"]["alertname"]] = " ".join(alert["annotations"].values())
        return {alert["labels"]["alertname"] for alert in alerts}

    wait_for(answers, 30, "Prometheus has scraped")
    (calls,) = ask('redisai_calls_total{model="fraud"}')
    assert (calls["metric"]["tag"], calls["value"][1]) == ("v3", "4")
    for expression in expressions():
        ask(expression)
    wait_for(lambda: not firing(), 30, "no alert is left of the start")
    fired.clear()

    run = ("AI.MODELEXECUTE", "loop", "INPUTS", 1, "n", "OUTPUTS", 1, "y")
    with server.client() as r:
        waiting = [server.wire() for _ in range(26)]
        os.kill(engine_pids(waiting[-1])["CPU:1"], signal.SIGKILL)
        for wire in waiting[:-1]:
            wire.send(*run)
        wait_for(lambda: len(r.execute_command("AI.RUNS", "loop")) == 25, what="MAXQUEUE is reached")

        def all_have_fired() -> bool:
            with pytest.raises(Exception, match="MAXQUEUE"):
                r.execute_command(*run)
            with pytest.raises(Exception, match="Got invalid dimensions"):
                r.execute_command("AI.MODELEXECUTE", "fraud", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
            firing()
            return set(fired) == names() - {"RedisaiDown"}

        try:
            wait_for(all_have_fired, 30, "these fire")
        except AssertionError:
            raise AssertionError(f"after 30 s only these have fired: {fired}") from None
    server.kill()
    wait_for(lambda: "RedisaiDown" in firing(), 30, "RedisaiDown fires")
    for wire in waiting:
        wire.socket.close()
    assert "runs of fraud fail" in fired["RedisaiErrors"] and "25 runs wait" in fired["RedisaiQueueGrows"]
    assert not [text for text in fired.values() if "no value" in text or "<error" in text], fired


@needs("prometheus")
def test_alerts(tmp_path: Path) -> None:
    """promtool plays figures to the rules: which alerts they give after ten minutes."""
    shutil.copy(ALERTS, tmp_path)
    device = 'instance="i", device="CPU", worker="1"'
    model = 'instance="i", model="m", tag="v1"'
    bad = {
        'redisai_up{instance="i"}': "0x20",
        f"redisai_calls_total{{{model}}}": "0+10x20",
        f"redisai_errors_total{{{model}}}": "0+1x20",
        'redisai_queued_runs{instance="i"}': "30+1x20",
        'redisai_refused_commands_total{instance="i"}': "0+1x20",
        f"redisai_busy_seconds{{{device}}}": "0+60x20",
        'redisai_process_deaths_total{instance="i", device="CPU"}': "0x5 1x15",
    }
    good = {
        **dict.fromkeys(bad, "0x20"),
        'redisai_up{instance="i"}': "1x20",
        f"redisai_calls_total{{{model}}}": "0+9x20",
    }
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in figures.items()],
            "promql_expr_test": [
                {
                    "expr": "count by (alertname) (ALERTS{alertstate='firing'})",
                    "eval_time": "12m",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing],
                }
            ],
        }
        for figures, firing in ((bad, sorted(names())), (good, []))
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    done = subprocess.run([which("promtool"), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("prometheus-redis-exporter")
def test_redis_exporter(server: Server, r: Client, processes: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    store_and_run(r)
    """By the command of the page, with the script that it names."""
    script = (ROOT / "deploy/prometheus/redis_exporter.lua").read_text()
    (tmp_path / "redis_exporter.lua").write_text(script.replace("models = {}", 'models = {"fraud", "nothing"}'))
    (command,) = page_blocks(PAGE, "With redis_exporter", "sh")
    program, *words = command.replace(":6379", f":{server.port}").split()
    assert program == "redis_exporter"
    port = free_port()
    words = [which("prometheus-redis-exporter"), *words, "--web.listen-address", f"127.0.0.1:{port}"]
    processes.append(subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL, text=True))

    def scraped() -> str:
        try:
            return get(f"http://127.0.0.1:{port}/metrics")
        except OSError:
            return ""

    wait_for(scraped, what="redis_exporter answers")
    found = samples(scraped())
    told = {dict(labels)["key"]: value for (name, labels), value in found.items() if name == "redis_script_values"}
    refused = int(server.info("modules")["ai_refused_runs"])  # of all tests that share the server
    assert (told["fraud:calls"], told["queued_runs"], told["refused_runs"]) == (4, 0, refused)
    assert told["fraud:run_time_p99"] > 0 and told["backends_memory"] > 2**20
    assert not [key for key in told if key.startswith("nothing")]


def test_bindings(start_server: StartServer, export: Export) -> None:
    server = start_server(options=BINDINGS)
    address = export(server)
    with server.wire() as wire:
        assert not [name for name, _ in samples(get(address)) if name.startswith("redisai_binding_")]
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_line(2, 1))
        bind(wire, f"ON HASH PREFIX 1 k: FIELDS 1 x {LINE}")
        wire.ask("HSET", "k:1", "x", 1)
        wire.ask("HSET", "k:2", "x", "no number")
    name = frozenset({("binding", "b")})

    def found() -> list[float]:
        told = samples(get(address))
        metrics = ("results_total", "errors_total", "pending", "lag_seconds")
        return [told[f"redisai_binding_{metric}", name] for metric in metrics]

    wait_for(lambda: found() == [1, 1, 0, 0], what="the figures of the binding")
