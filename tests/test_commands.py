import pytest

from torchreid_dfrst.commands import command


@pytest.mark.parametrize(
    "error", [ValueError("omega is -1"), KeyError("omega is -1"), FileNotFoundError("omega is -1")]
)
def test_a_users_mistake_is_one_line_and_exit_code_two(error, capsys):
    @command
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: omega is -1\n"


def test_our_own_bugs_keep_their_traceback():
    @command
    def main():
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        main()


def test_success_returns_and_a_code_is_passed_on():
    command(lambda: None)()
    with pytest.raises(SystemExit) as stop:
        command(lambda: 1)()
    assert stop.value.code == 1
