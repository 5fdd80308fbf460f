"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME…", help="Names or uuids of instances.", show_default=False)
]
Selector = Annotated[
    list[str] | None,
    typer.Option("-l", "--selector", metavar="K=V", help="Those with this metadata or tag; repeatable."),
]
On = Annotated[str | None, typer.Option("--on", metavar="HOST", help="Those on this host.")]
All = Annotated[bool, typer.Option("--all", help="All of the project.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or uuid of an instance; a uuid's first 8 digits do.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Return when a detached novactl has taken over; prints the id.")
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SEC", help="Stop waiting after; it goes on (124)."),
]
LockWait = Annotated[
    float, typer.Option("--lock-wait", metavar="SEC", help="Wait for another operation to let go.")
]
Properties = Annotated[
    list[str] | None, typer.Option("--property", metavar="K=V", help="A property; repeatable.")
]
