"""Manual pages in roff, and the reference in Markdown, made from what ``--help`` is made from."""

import argparse

from handshaked import __version__
from handshaked.cli.parser import PAGES, command_line
from handshaked.system.command_line import RecordingParser, help_text, takes_value

_SUMMARY = {
    "handshakectl.1": "control the TLS handshake daemon",
    "handshaked.8": "TLS 1.3 handshake daemon",
    "handshaked-demux.8": "one UDP port for many QUIC servers",
}
_FILES = (
    ("/run/handshaked/handshake.sock", "Where endpoints ask for handshakes."),
    ("/run/handshaked/control.sock", "Where handshakectl asks."),
    ("/run/handshaked-demux/accept.sock", "Where servers ask the demultiplexer for connections."),
    ("/etc/handshaked/handshaked.toml", "Settings."),
    ("/etc/handshaked/registrations.d/*.toml", "Registrations for configuration management."),
    ("/var/lib/handshaked/registry.db", "Registrations with their keys; readable by the daemon alone."),
)


def manual(arguments: argparse.Namespace) -> int:
    """``manual``."""
    print(page(arguments.page), end="")
    return 0


def page(name: str) -> str:
    """The manual page `name`, one of PAGES."""
    parser = _parser(name)
    program, _, section = name.rpartition(".")
    lines = [
        f'.TH {program.upper()} {section} "" "handshaked {__version__}" "handshaked"',
        ".SH NAME", f"{program} \\- {_SUMMARY[name]}",
        ".SH SYNOPSIS", *_synopsis(parser),
        ".SH DESCRIPTION", _escaped(parser.description or ""),
    ]  # fmt: skip
    if parser.arguments:
        lines += [".SH OPTIONS", *_options(parser)]
    if parser.commands:
        lines.append(".SH COMMANDS")
        for sub in parser.commands.values():
            lines += [".SS " + _escaped(_usage(sub)), _escaped(sub.description or ""), *_options(sub)]
    lines.append(".SH FILES")
    for path, words in _FILES:
        lines += [".TP", f".I {_escaped(path)}", _escaped(words)]
    others = [f"\\fB{_escaped(other[:-2])}\\fR({other[-1]})" for other in PAGES if other != name]
    lines += [".SH SEE ALSO", ", ".join(others)]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """All commands and options of both programs, in Markdown."""
    lines = ["# Commands and options", "", "Written by `scripts/docs` from what `--help` is made from.", ""]
    for name in PAGES:
        parser = _parser(name)
        lines += [f"## {name.rpartition('.')[0]}", "", parser.description or "", "", *_rows(parser)]
        for sub in parser.commands.values():
            lines += [f"### {sub.prog}", "", sub.description or "", "", f"    {_usage(sub)}", "", *_rows(sub)]
    return "\n".join(lines).rstrip() + "\n"


def _parser(name: str) -> RecordingParser:
    # Only here: handshakectl starts faster without the daemons.
    from handshaked import daemon
    from handshaked.demux import main

    made = {
        "handshakectl": command_line,
        "handshaked": daemon.command_line,
        "handshaked-demux": main.command_line,
    }
    return made[name.rpartition(".")[0]]()


def _synopsis(parser: RecordingParser) -> list[str]:
    if not parser.commands:
        return [f".B {parser.prog}", "[OPTION ..]"]
    return [f".B {parser.prog}", "COMMAND [OPTION ..]"]


def _usage(parser: RecordingParser) -> str:
    words = [parser.prog]
    for action in parser.arguments:
        shown = _name(action)
        words.append(shown if action.required else f"[{shown}]")
    return " ".join(words)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"{{{','.join(action.choices)}}}" if action.choices else action.dest.upper()
    name = ", ".join(action.option_strings)
    if not takes_value(action):
        return name
    return (
        f"{name} {{{','.join(action.choices)}}}"
        if action.choices
        else f"{name} {action.metavar or action.dest.upper()}"
    )


def _options(parser: RecordingParser) -> list[str]:
    lines = []
    for action in parser.arguments:
        lines += [".TP", f".B {_escaped(_name(action))}", _escaped(help_text(action) or "Show the version.")]
    return lines


def _rows(parser: RecordingParser) -> list[str]:
    if not parser.arguments:
        return []
    rows = [f"| `{_name(action)}` | {help_text(action) or 'show the version'} |" for action in parser.arguments]
    return ["| | |", "|---|---|", *(row.replace("\\x", "\\\\x") for row in rows), ""]


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
