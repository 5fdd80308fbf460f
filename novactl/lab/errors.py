"""The errors of the lab."""

from novactl.errors import NovactlError


class LabError(NovactlError):
    """The lab cannot do it; `hint` says what to do."""


class NoLabError(LabError):
    """There is no lab of that name."""

    code = 4

    def __init__(self, name: str) -> None:
        super().__init__(f"lab {name} is not up", hint=f"novactl lab up --name {name}")
