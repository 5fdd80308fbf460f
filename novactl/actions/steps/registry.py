"""The closed set of steps: what a journal may name."""

import importlib

from novactl.engine.step import Registry


def _every() -> None:
    importlib.import_module("novactl.actions.steps.every")


REGISTRY = Registry(_every)
