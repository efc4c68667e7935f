"""``mlsched gpus``: each GPU, how it is, who holds it; and recordings for bug reports."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def show(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    *,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FORM", help="table, wide, json, yaml or name."),
    ] = "",
    context: Annotated[
        str, typer.Option("--context", "-c", metavar="NAME", help="Where: local, or a cluster.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    replay: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Show a recording, or the output of nvidia-smi -q -x, instead of this machine.",
        ),
    ] = "",
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.")] = False,
    no_headers: Annotated[
        bool, typer.Option("--no-headers", help="Tables without a head.")
    ] = False,
) -> None:
    """Show each GPU, its health, and who holds it.

    Examples: mlsched gpus; mlsched gpus -o wide; mlsched gpus record gpus.json
    """
    if ctx.invoked_subcommand:
        return
    from mlsched.cli.render.gpus import format_gpus, from_plain, list_uuids, to_plain
    from mlsched.cli.render.tables import terminal_width
    from mlsched.cli.session import Session

    before = ctx.find_root().params.get("context") or ""
    session = Session(
        "json" if json else output, context or before, no_color=no_color, no_headers=no_headers
    )
    if not replay and not session.is_local:
        from mlsched.cli.render.nodes import print_nodes

        print_nodes(session, session.client.call("gpus"))
        return
    if replay:
        from pathlib import Path

        from mlsched.adapters.nvml.replays import replay as replay_file

        inventory, holders = replay_file(Path(replay)), {}
    else:
        found = session.client.call("gpus")
        inventory = from_plain(found["inventory"])
        holders = found["holders"]
    layout = {"width": terminal_width(), "color": session.has_color(), "heads": session.headers}
    session.emit(
        to_plain(inventory, holders) if session.output in ("json", "yaml") else None,
        lambda: format_gpus(inventory, holders, wide=session.output == "wide", layout=layout),
        list_uuids(inventory),
    )


@app.command()
def record(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where it goes; - is stdout.")],
) -> None:
    """Record every answer of the driver into FILE, to attach to a bug report.

    UUIDs, serial numbers and PCI addresses are replaced. Show it with: mlsched gpus --replay FILE
    """
    import sys
    from pathlib import Path

    from mlsched.adapters.nvml.replays import record as record_calls
    from mlsched.errors import SpecError

    data = record_calls()
    if file == "-":
        sys.stdout.buffer.write(data + b"\n")
        return
    try:
        Path(file).write_bytes(data + b"\n")
    except OSError as error:
        raise SpecError(f"cannot write {file}: {error.strerror}.") from error
    typer.echo(f"recorded {len(data) >> 10} KiB into {file}", err=True)
