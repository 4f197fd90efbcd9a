"""Shell completion of ``handshakectl``."""

from pathlib import Path

import pytest

from handshaked.cli.completion import script
from handshaked.cli.parser import SHELLS, command_line
from tests.patience import run_program
from tests.plugins.needs import need


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_name_every_command_and_option(shell: str) -> None:
    parser = command_line()
    text = script(shell, parser)
    for name, sub in parser.commands.items():
        assert name in text
        for action in sub.arguments:
            if action.option_strings:
                assert action.option_strings[-1].removeprefix("--") in text


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_are_valid_scripts(shell: str) -> None:
    need(shell)
    run_program(shell, "-n", input=script(shell, command_line()))


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(script("bash", command_line()))
    ask = (
        "source completion; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _handshakectl;"
        ' printf "%s\\n" "${{COMPREPLY[@]}}"'
    )

    def completed(words: str) -> list[str]:
        process = run_program("bash", "-c", ask.format(words), cwd=tmp_path)
        return process.stdout.split()

    assert completed("handshakectl unr") == ["unregister"]
    assert completed("handshakectl monitor --fa") == ["--failed"]
    assert completed("handshakectl monitor --role s") == ["server"]
    assert completed("handshakectl completion z") == ["zsh"]
    assert completed("handshakectl register --cert comp") == ["completion"]
