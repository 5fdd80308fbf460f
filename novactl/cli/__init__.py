"""The command line: parse, call, render. The only importer of typer and rich."""
