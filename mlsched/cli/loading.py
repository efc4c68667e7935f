"""Builds commands when they are needed, from the catalogue: the seam between Typer and ours.

A command is a plain function whose parameters carry ``typer.Option`` and ``typer.Argument``. If its
first parameter is called ``session``, it also gets the options that all commands have. A parameter
called ``flags`` stands for every flag that describes a job, from `mlsched.specs.flags`, and one
called ``extras`` for the options that go with them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mlsched.cli.catalogue import ALIASES, COMMANDS, Entry
from mlsched.cli.words import CommandLine

Parameter = inspect.Parameter
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

OutputOption = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FORM", help="table, wide, json, yaml or name."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
ContextOption = Annotated[
    str,
    typer.Option("--context", "-c", metavar="NAME", help="Where: local, or a cluster."),
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="In a cluster: which namespace.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Only data and errors.")]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="No colours.")]
NoHeadersOption = Annotated[bool, typer.Option("--no-headers", help="Tables without a head.")]
NoInputOption = Annotated[bool, typer.Option("--no-input", help="Never ask anything.")]

_COMMON: dict[str, tuple[Any, Any]] = {
    "output": (OutputOption, ""),
    "json": (JsonOption, False),
    "context": (ContextOption, ""),
    "namespace": (NamespaceOption, ""),
    "quiet": (QuietOption, False),
    "no_color": (NoColorOption, False),
    "no_headers": (NoHeadersOption, False),
    "no_input": (NoInputOption, False),
}

_EXTRAS: dict[str, tuple[Any, Any]] = {
    "env_file": (
        Annotated[
            list[str],
            typer.Option("--env-file", metavar="FILE", help="Environment from NAME=VALUE lines."),
        ],
        None,
    ),
    "set_fields": (
        Annotated[
            list[str],
            typer.Option("--set", metavar="PATH=VALUE", help="Set a field of the spec: env.LR=1."),
        ],
        None,
    ),
    "idempotency_key": (
        Annotated[
            str | None,
            typer.Option(
                "--idempotency-key", metavar="KEY", help="Twice the same key gives one job."
            ),
        ],
        None,
    ),
    "dry_run": (
        Annotated[
            bool, typer.Option("--dry-run", help="Show what would become of it; submit nothing.")
        ],
        False,
    ),
}


class PlainText:
    """Takes words as they are, in place of Typer's pydantic adapters.

    All our parameters are text, numbers, switches or lists of text; loading pydantic for them would
    double the start-up of every command.
    """

    def __init__(self, annotation: Any) -> None:
        self._kind = annotation

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value for the function: Typer calls this for each parameter."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if several or self._kind not in (int, float) or isinstance(value, (int, float)):
            return value
        try:
            return self._kind(value)
        except ValueError as error:
            raise typer.BadParameter(
                f"{str(value)[:60]!r} is not a number.", ctx=ctx, param=param
            ) from error


_PLAIN = (str, int, float, bool)


def lighten(command: Any) -> None:
    """Spare a command, and the commands below it, the cost of pydantic where nothing needs it.

    Parameters are taken as the command gives them, for ``--help`` is only made then.
    """
    get_params = command.get_params

    def get_light_params(ctx: Any) -> Any:
        parameters = get_params(ctx)
        for parameter in parameters:
            _lighten_parameter(parameter)
        return parameters

    command.get_params = get_light_params
    for inner in getattr(command, "commands", {}).values():
        lighten(inner)


def _lighten_parameter(parameter: Any) -> None:
    descriptor = getattr(parameter, "type_descriptor", None)
    kind = getattr(descriptor, "annotation", None)
    plain = kind in _PLAIN or kind == list[str]
    limited = getattr(descriptor, "is_ranged", True) or getattr(descriptor, "is_choice", True)
    if plain and not limited and hasattr(parameter, "_runtime_param"):
        parameter._runtime_param = PlainText(kind)


class Catalogue(TyperGroup):
    """A group whose commands are built when they are asked for."""

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names without aliases, in the order of the catalogue."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name or alias; None when there is none."""
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.entries:
            return None
        if name not in self.commands:
            self.commands[name] = build(name, self.entries[name])
        return self.commands[name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer, with suggestions from the catalogue instead of what happens to be loaded."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from difflib import get_close_matches

            names = [*self.entries, *self.aliases]
            near = get_close_matches(args[0][:40], names, 2)
            told = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            ctx.fail(f"there is no command {args[0][:40]!r}.{told}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands under their headings, from the catalogue; not those without a summary."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            if not entry.summary:
                continue
            sections.setdefault(entry.section or "Commands", []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


def make_group(
    name: str, help_text: str, entries: Mapping[str, Entry], aliases: Mapping[str, str]
) -> Catalogue:
    """A group over a catalogue."""
    top = not name
    app = typer.Typer(
        name=name or "mlsched",
        cls=Catalogue,
        help=help_text,
        no_args_is_help=True,
        add_completion=top,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )
    app.callback()(_root if top else _nothing)
    group = typing.cast("Catalogue", typer.main.get_command(app))
    group.entries, group.aliases = entries, aliases
    lighten(group)
    return group


def _nothing() -> None:
    """A group does nothing itself."""


def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    context: ContextOption = "",
) -> None:
    """Options that may stand before a command."""
    if version:
        from mlsched.version import __version__

        typer.echo(f"mlsched {__version__}")
        raise typer.Exit
    if context:
        from mlsched.api.contexts import check_context

        check_context(context)


def build(name: str, entry: Entry) -> Any:
    """The command that an entry stands for."""
    module_name, _, attribute = entry.target.partition(":")
    module = import_module(module_name)
    target = getattr(module, attribute)
    if isinstance(target, dict):
        return make_group(name, entry.summary, target, {})
    if isinstance(target, typer.Typer):
        target.info.context_settings = _SETTINGS
        target.rich_markup_mode = None
        target._add_completion = False
        command: Any = typer.main.get_command(target)
    else:
        command = _build_function(name, entry, target, getattr(module, "EXAMPLES", ""))
    command.name = name
    lighten(command)
    return command


def _build_function(name: str, entry: Entry, target: Callable[..., Any], examples: str) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    kind = CommandLine if entry.words == "command" else None
    text = help_text(target, examples)
    app.command(name, cls=kind, help=text, context_settings=_SETTINGS)(_adapt(target))
    return typer.main.get_command(app)


def help_text(target: Callable[..., Any], examples: str) -> str:
    """Examples first, then what the function's docstring tells users."""
    doc = inspect.getdoc(target) or ""
    for heading in ("\nArgs:", "\nRaises:", "\nReturns:", "\nExamples:"):
        doc = doc.partition(heading)[0]
    summary, _, rest = doc.strip().partition("\n\n")
    lines = [f"  {line}" for line in inspect.cleandoc(examples).splitlines()]
    shown = "\b\nExamples:\n" + "\n".join(lines) if examples else ""
    return "\n\n".join(part for part in (summary, shown, rest) if part)


def _adapt(target: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Typer is to see it: with the options that all commands have."""
    signature = inspect.signature(target, eval_str=True)
    if "session" not in signature.parameters:
        return target
    own = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name not in ("session", "flags", "extras")
    ]
    flags = _flag_parameters() if "flags" in signature.parameters else {}
    extras = _parameters(_EXTRAS) if "extras" in signature.parameters else {}
    common = _parameters(_COMMON)
    context = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *own, *flags.values(), *extras.values(), *common.values()]

    def adapted(*, ctx: typer.Context, **given: Any) -> Any:
        session = _make_session({name: given.pop(name) for name in common}, ctx)
        if flags:
            given["flags"] = _flag_pairs({name: given.pop(name) for name in flags})
        if extras:
            given["extras"] = {name: given.pop(name) for name in extras}
        return target(session, **given)

    adapted.__name__ = target.__name__
    adapted.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    adapted.__annotations__ = {p.name: p.annotation for p in parameters}
    return adapted


def _make_session(chosen: dict[str, Any], ctx: typer.Context) -> Any:
    from mlsched.cli.session import Session

    output = "json" if chosen.pop("json") else chosen.pop("output")
    chosen.pop("output", None)
    root = ctx.find_root()
    context = chosen.pop("context") or root.params.get("context") or ""
    return Session(output, context, words=root.obj, **chosen)


def _parameters(table: Mapping[str, tuple[Any, Any]]) -> dict[str, inspect.Parameter]:
    return {
        name: Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in table.items()
    }


def _flag_parameters() -> dict[str, inspect.Parameter]:
    """One parameter for each flag of the table that describes jobs."""
    from mlsched.specs.flags import FLAGS

    made = {}
    for flag in FLAGS:
        name = _parameter_name(flag.names[0])
        kind: Any = bool if flag.switch else list[str] if flag.repeats else str
        option = typer.Option(
            *flag.names, help=flag.help, metavar=None if flag.switch else flag.metavar
        )
        default: Any = False if flag.switch else None
        made[name] = Parameter(
            name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )
    return made


def _parameter_name(flag: str) -> str:
    return "flag_" + flag.removeprefix("--").replace("-", "_")


def _flag_pairs(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flags and values as `apply_flags` takes them."""
    pairs = []
    for name, value in given.items():
        flag = "--" + name.removeprefix("flag_").replace("_", "-")
        if isinstance(value, bool):
            pairs.extend([(flag, "")] if value else [])
        elif isinstance(value, (list, tuple)):
            pairs.extend((flag, one) for one in value)
        elif value is not None:
            pairs.append((flag, value))
    return pairs


def make_program() -> Catalogue:
    """The whole program."""
    text = (
        "Run GPU jobs, see why they wait, and get their results.\n\n"
        "\b\nExamples:\n"
        "  mlsched run -- python -c 'print(2+3)'\n"
        "  mlsched submit --gpus 2 --time 4h -- python train.py\n"
        "  mlsched why train-1"
    )
    return make_group("", text, COMMANDS, ALIASES)
