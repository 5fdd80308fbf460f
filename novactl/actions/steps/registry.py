"""The closed set of steps: what a journal may name."""

from novactl.engine.step import Registry

REGISTRY = Registry()
