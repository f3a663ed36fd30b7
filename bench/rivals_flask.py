"""The credit-card check as a service of Flask, in gunicorn. bench/rivals.py starts it.

There is a worker for each core, with threads that keep connections open. On two cores one worker was half as fast, with
2, 8 or 64 threads. Flask's own server closes each connection and is meant for development.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request
from gunicorn.app.base import BaseApplication

from bench.rivals_check import Check, words

THREADS = 8


class Service(BaseApplication):  # type: ignore[misc] # the library has no types
    def load_config(self) -> None:
        settings = {"bind": f"127.0.0.1:{words()[0]}", "workers": os.cpu_count(), "threads": THREADS}
        settings |= {"loglevel": "warning"}
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Gunicorn calls it in the worker's process."""
        check, app = Check(*words()[1]), Flask(__name__)

        def predict() -> Response:
            return Response(check(request.get_data()).tobytes(), mimetype="application/octet-stream")

        app.add_url_rule("/predict", view_func=predict, methods=["POST"])
        return app


if __name__ == "__main__":
    Service().run()
