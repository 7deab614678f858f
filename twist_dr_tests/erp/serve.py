#!/usr/bin/env python
"""Serves the sample over HTTP on loopback: `serve.py [PORT]`; prints the port when it listens, and ends when its input does.

Worker threads that live as long as the process, as under gunicorn: with ERP_CONN_MAX_AGE each keeps its connection
to the database from request to request, which runserver cannot.
"""

import os
import sys
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

WORKERS = 4


class Handler(WSGIRequestHandler):
    """Logs what was refused, and nothing else."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if not str(code).startswith("2"):
            super().log_request(code, size)


def work(server: WSGIServer) -> None:
    """Answers requests one after the other; the kernel gives them to the workers in turn."""
    while True:
        request, client = server.get_request()
        try:
            server.process_request(request, client)
        except Exception:  # a client that went away must not end the worker
            server.handle_error(request, client)
            server.shutdown_request(request)


def main() -> None:
    """See the module's docstring."""
    # First, so that the apps beside this file win over packages of the same name elsewhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from erp_site.wsgi import application

    server = WSGIServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler, bind_and_activate=False)
    server.request_queue_size = 64
    server.server_bind()
    server.server_activate()
    server.set_app(application)
    for _ in range(WORKERS):
        Thread(target=work, args=[server], daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
