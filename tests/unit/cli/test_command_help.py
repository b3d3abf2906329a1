"""--help shows every command once, under its purpose, and the name under which the program was called."""

import pytest

from chatbot.cli.command_line import COMMANDS, GROUPS, SERVICE_COMMANDS, parse


def helped(capsys: pytest.CaptureFixture[str], *arguments: str, program: str = "chatbot") -> str:
    with pytest.raises(SystemExit) as ended:
        parse([*arguments, "--help"], "1", program)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_command_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted([*SERVICE_COMMANDS, *COMMANDS])


def test_help_groups_commands_by_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys)
    for title, names in GROUPS.items():
        (group,) = [block for block in text.split("\n\n") if block.startswith(f"{title}:\n")]
        assert [line.split()[0] for line in group.splitlines()[1:]] == list(names)
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("program", ["chatbot", "run.py"])
def test_usage_has_the_name_under_which_it_was_called(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, program=program).startswith(f"usage: {program} [")
    for name in (*SERVICE_COMMANDS, *COMMANDS):
        assert helped(capsys, name, program=program).startswith(f"usage: {program} {name} [")
