"""The variables of a playbook: what values they take."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from novactl.errors import UsageError
from novactl.objects.names import ADDRESS, NAME, PATH, check_text, near

SECRET = re.compile(r"(^|_)(password|passwd|passphrase|secret|token|private_key)(_|$)")
PATTERNS = {"name": NAME, "address": ADDRESS, "path": PATH}
Scalar = str | int | bool
Value = Scalar | list[str] | None


class Variable(BaseModel):
    """One variable. Without a default it must be given; a default of null makes it optional."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["name", "address", "path", "text", "integer", "boolean", "list"] = "name"
    default: Any = None
    pattern: str | None = None
    options: bool = False
    secret: bool = False
    description: Annotated[str, Field(max_length=500)] = ""

    @field_validator("secret")
    @classmethod
    def _no_secrets(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "a playbook carries no secrets: what it says is journaled; keep them in files on the host"
            )
        return value

    @field_validator("pattern")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Variable":
        if self.default is not None:
            self.check("default", self.default)
        return self

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    def check(self, name: str, value: Value) -> Value:
        """The value, if it is one. Raises ValueError."""
        kind = {"integer": int, "boolean": bool, "list": list}.get(self.type, str)
        if type(value) is not kind:
            raise ValueError(f"{name}: {value!r} is not of type {self.type}")
        for item in value if isinstance(value, list) else [value]:
            self._check_item(name, item)
        return value

    def _check_item(self, name: str, item: Any) -> None:
        if not isinstance(item, str):
            return
        if self.type in PATTERNS and not PATTERNS[self.type].fullmatch(item):
            raise ValueError(f"{name}: {item!r} is not of type {self.type}")
        if self.pattern is not None and not re.fullmatch(self.pattern, item):
            raise ValueError(f"{name}: {item!r} does not match {self.pattern}")
        try:
            check_text(item, f"{name}:", limit=4096)
        except UsageError as error:
            raise ValueError(error.message) from error

    def read(self, name: str, text: str) -> Value:
        """The value that a person wrote as `-e name=text`. Raises UsageError."""
        try:
            return self.check(name, self._typed(text))
        except ValueError as error:
            raise UsageError(f"-e {error}", hint=self.description) from error

    def _typed(self, text: str) -> Value:
        match self.type:
            case "integer":
                return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
            case "boolean":
                return {"true": True, "false": False}.get(text, text)
            case "list":
                return _list(text)
        return text


def _list(text: str) -> Value:
    """`["a", "b c"]`, or words separated by commas."""
    if not text.startswith("["):
        return text.split(",") if text else []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else text


def values(variables: dict[str, Variable], given: dict[str, str]) -> dict[str, Value]:
    """Every variable's value. Raises UsageError for one that is missing, not known or not acceptable."""
    for name in given:
        if name not in variables:
            close = near(name, variables)
            known = ", ".join(sorted(variables)) or "it has none"
            hint = f"did you mean {', '.join(close)}?" if close else f"its variables: {known}"
            raise UsageError(f"-e {name}: the playbook has no such variable", hint=hint, candidates=close)
    missing = [name for name, variable in variables.items() if variable.required and name not in given]
    if missing:
        hint = "; ".join(f"-e {name}=…: {variables[name].description}".rstrip(": ") for name in missing)
        raise UsageError(f"no value for {', '.join(missing)}", hint=hint)
    read = {name: variable.read(name, given[name]) for name, variable in variables.items() if name in given}
    return {name: read.get(name, variable.default) for name, variable in variables.items()}


def refuse_secrets(names: dict[str, Variable]) -> list[str]:
    """Those whose name says that they hold what must not be journaled."""
    return [name for name in names if SECRET.search(name)]
