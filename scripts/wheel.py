"""A build hook of hatchling, named in pyproject.toml, that puts the demo into the wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _demo() -> Any:
    """Return the module scripts/demo.py, which cannot be imported as usual where wheels are built."""
    specification = importlib.util.spec_from_file_location("demo", Path(__file__).with_name("demo.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Hook(BuildHookInterface[Any]):
    """A build hook that builds the demo first. The wheel fails if that does, unless NABLA_DEMO=off leaves it out."""

    def dependencies(self) -> list[str]:
        demo = _demo()
        return [] if demo.is_off() or demo.has_node() else [f"{demo.PACKAGE}==24.*"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        demo = _demo()
        if demo.is_off():
            self.app.display_info("NABLA_DEMO says so: the wheel has no demo.")
            return
        try:
            demo.build()
        except (demo.NoNode, demo.Failed) as error:
            raise RuntimeError(f"The demo could not be built; NABLA_DEMO=off leaves it out.\n{error}") from None
        build_data["artifacts"].append("/service/demo/")  # git ignores it, so it has to be named


def get_build_hook() -> type[BuildHookInterface[Any]]:
    return Hook
