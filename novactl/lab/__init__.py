"""A disposable fleet of real hypervisors on one machine, made of Linux namespaces."""

from novactl.lab.errors import LabError, NoLabError
from novactl.lab.fleet import ROOT, Fleet, down, load, status, up
from novactl.lab.host import LabHost

__all__ = ["ROOT", "Fleet", "LabError", "LabHost", "NoLabError", "down", "load", "status", "up"]
