"""The command line as rows for the book's reference."""

from __future__ import annotations

import typer


def command_rows(app: typer.Typer) -> list[dict[str, str]]:
    """Each command with its options and what it does.

    Returns
    -------
    list of dict
        ``command, options, what``.
    """
    rows = []
    for name, command in typer.main.get_command(app).commands.items():
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        arguments = " ".join(p.name.upper() for p in shown if p.param_type_name == "argument")
        options = [max(p.opts, key=len) for p in shown if p.param_type_name == "option"]
        what = (command.help or "").strip().split("\n\n")[0]
        row = {"command": f"mdhelpers {name} {arguments}".strip(), "what": " ".join(what.split())}
        rows.append(row | {"options": ", ".join(o for o in options if o != "--help")})
    return rows
