"""Completion scripts for bash, zsh and fish, generated from the command line parser."""

import argparse

from handshaked.cli.parser import command_line
from handshaked.system.command_line import RecordingParser, help_text, is_path, takes_value

_NAMES = 'handshakectl list --json 2>/dev/null | sed -n \'s/^ *"name": "\\(.*\\)",$/\\1/p\''
_TAKE_REGISTRATION = ("unregister", "show", "test")


def completion(arguments: argparse.Namespace) -> int:
    """Run ``completion``."""
    print(script(arguments.shell, command_line()), end="")
    return 0


def script(shell: str, parser: RecordingParser) -> str:
    """Return the completion script for `shell`, one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _options(parser: RecordingParser) -> list[argparse.Action]:
    return [action for action in parser.arguments if action.option_strings]


def _bash(parser: RecordingParser) -> str:
    cases, values = [], []
    for name, sub in parser.commands.items():
        words = " ".join(option for action in _options(sub) for option in action.option_strings)
        words += "".join(
            f" {choice}" for action in sub.arguments if not action.option_strings for choice in action.choices or ()
        )
        names = f" $({_NAMES})" if name in _TAKE_REGISTRATION else ""
        cases.append(f'        {name}) words="{words}{names}" ;;')
        for action in filter(takes_value, _options(sub)):
            pattern = f"{name}:{action.option_strings[-1]}"
            if action.choices:
                found = f'-W "{" ".join(action.choices)}"'
            elif is_path(action):
                found = "-f"
            else:
                found = f'-W "$({_NAMES})"' if action.dest == "registration" else '-W ""'
            values.append(f'        {pattern}) COMPREPLY=($(compgen {found} -- "$current")); return ;;')
    return f"""# Completion of handshakectl for bash, written by: handshakectl completion bash
_handshakectl() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "--help --version {" ".join(parser.commands)}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}:$previous" in
{chr(10).join(values)}
    esac
    case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
    esac
    COMPREPLY=($(compgen -W "--help $words" -- "$current"))
}}
complete -o filenames -F _handshakectl handshakectl
"""


def _zsh(parser: RecordingParser) -> str:
    commands = "\n".join(f"        {_quoted(f'{name}:{sub.description}')}" for name, sub in parser.commands.items())
    cases = []
    for name, sub in parser.commands.items():
        specs = [_zsh_option(action) for action in _options(sub)]
        for action in sub.arguments:
            if action.option_strings:
                continue
            if action.choices:
                specs.append(_quoted(f":{action.dest}:({' '.join(action.choices)})"))
            elif name in _TAKE_REGISTRATION:
                specs.append(_quoted(":registration:_handshakectl_registrations"))
            else:
                specs.append(_quoted(f":{action.dest}: "))
        cases.append(f"        {name}) _arguments {' '.join(specs)} ;;")
    return f"""#compdef handshakectl
# Completion of handshakectl for zsh, written by: handshakectl completion zsh
_handshakectl_registrations() {{
    local -a names
    names=(${{(f)"$({_NAMES})"}})
    compadd -a names
}}
_handshakectl() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{chr(10).join(cases)}
    esac
}}
_handshakectl "$@"
"""


def _zsh_option(action: argparse.Action) -> str:
    words = help_text(action).replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = ""
    if takes_value(action):
        kind = "_files" if is_path(action) else f"({' '.join(action.choices)})" if action.choices else " "
        value = f":{action.dest}:{'_handshakectl_registrations' if action.dest == 'registration' else kind}"
    star = "*" if isinstance(action.default, list) else ""
    return _quoted(f"{star}{action.option_strings[-1]}[{words}]{value}")


def _fish(parser: RecordingParser) -> str:
    lines = [
        "# Completion of handshakectl for fish, written by: handshakectl completion fish",
        "complete -c handshakectl -f",
    ]
    for name, sub in parser.commands.items():
        lines.append(f"complete -c handshakectl -n __fish_use_subcommand -a {name} -d {_quoted(sub.description or '')}")
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for action in sub.arguments:
            words = _quoted(help_text(action))
            if not action.option_strings:
                if action.choices:
                    lines.append(f"complete -c handshakectl {condition} -a {_quoted(' '.join(action.choices))}")
                elif name in _TAKE_REGISTRATION:
                    lines.append(f"complete -c handshakectl {condition} -a {_quoted(f'({_NAMES})')}")
                continue
            value = ""
            if takes_value(action):
                value = " -r"
                if is_path(action):
                    value = " -r -F"
                elif action.choices:
                    value = f" -x -a {_quoted(' '.join(action.choices))}"
                elif action.dest == "registration":
                    value = f" -x -a {_quoted(f'({_NAMES})')}"
            lines.append(f"complete -c handshakectl {condition} -l {action.option_strings[-1][2:]}{value} -d {words}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
