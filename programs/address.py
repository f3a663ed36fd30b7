"""The options of programs that name an address: the server's, and their own."""

from __future__ import annotations

import argparse
import os
import re

LOCAL = "redis://127.0.0.1:6379"


def add_url(parser: argparse.ArgumentParser) -> None:
    # A password belongs into the variable: other users of the machine see the words of a command line.
    parser.add_argument(
        "--url",
        default=os.environ.get("REDIS_URL", LOCAL),
        help=f"the server: redis://[[user]:password@]host:port[/database], rediss:// for TLS, unix:///path "
        f"(default: the variable REDIS_URL, else {LOCAL})",
    )


def add_own_address(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="the address to serve on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=port, help=f"the port to serve on, 0 for a free one (default: {port})"
    )


def without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
