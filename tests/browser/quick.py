"""The application in a thread of this process: it is there at once, with any settings and under any path."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import WSGIRequestHandler, make_server

from service.app import create_app
from service.config import Settings
from tests.support import LOOPBACK, Server


@contextmanager
def quick_server(root: str = "", **settings: Any) -> Iterator[Server]:
    """Yield a server of the application with some settings changed. `root` is the path that it is mounted at."""
    app: Any = create_app(Settings(log_requests=False, **settings))
    if root:
        app = DispatcherMiddleware(NotFound(), {root: app})
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Server(os.getpid(), server.port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing."""
