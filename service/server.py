"""The gunicorn server with the settings of gunicorn.conf.py, wherever it is started."""

from __future__ import annotations

from flask import Flask
from gunicorn.app.base import Application

from service.packaged import packaged


class Server(Application):  # type: ignore[misc]  # gunicorn has no types
    """The `gunicorn` of this repository, except that it ignores files of the current folder.

    That folder may contain another gunicorn.conf.py, or other packages with the names `service` or `schemas`.
    """

    def chdir(self) -> None:
        """Leave the import path alone; gunicorn would put the current folder first."""

    def load_config(self) -> None:
        self.load_config_from_file(str(packaged("gunicorn.conf.py")))
        # As in gunicorn, GUNICORN_CMD_ARGS overrides the file.
        arguments = self.cfg.parser().parse_args(self.cfg.get_cmd_args_from_env())
        for name, value in vars(arguments).items():
            if value is not None and name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        from service.app import create_app

        return create_app()
