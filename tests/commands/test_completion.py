"""``ifserver completion``: what it prints, and what each shell makes of it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ifserver.cli import main
from ifserver.commands.completion import FILES
from ifserver.config.command_line import SHELLS

ROOT = Path(__file__).parents[2]
#: What stands on the command line -> some of what is offered then, and the most that may be.
OFFERED = {
    ("ser",): ({"serve"}, 1),
    ("run", "--por"): ({"--port"}, 1),
    ("run", "hello:app", "--log-format", ""): ({"human", "json", "short"}, 3),
    ("completion", ""): ({"bash", "zsh", "fish"}, 3),
    ("pause", "--"): ({"--admin", "--for", "--help"}, 10),
    ("worker", "--clu"): ({"--cluster", "--clusters"}, 2),
    ("serve", "--certfile", "setup.c"): ({"setup.cfg"}, 1),
}
#: Types the line $3 in a zsh that has the scripts in $1, and presses Tab. What is offered is not inserted, but written
#: into a file in $2.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
tell() { zpty -w shell "$1" }
tell 'PS1=; unsetopt beep; fpath=('${(q)1}' $fpath); autoload -U compinit; compinit -u -D'
tell 'compadd() {
  [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] && { builtin compadd "$@"; return }
  local -a found; builtin compadd -A found "$@"; print -rl -- $found >> '${(q)2}'/offered
}'
tell 'tab() { zle complete-word; : > '${(q)2}'/done }; zle -N tab; bindkey "^I" tab'
zpty -w -n shell "$3"$'\t'
while [[ ! -e $2/done ]]; do zpty -rt shell ignored || sleep 0.05; done
cat $2/offered
"""


def shown(command: list[str]) -> set[str]:
    # In the project's folder, which has the files that are offered.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == FILES[shell].read_text("utf-8")


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_what_is_wrong_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_bash(words: tuple[str, ...]) -> None:
    line = ["ifserver", *words]
    script = f"""
        source {shlex.quote(str(FILES["bash"]))}
        COMP_WORDS=({shlex.join(line)}) COMP_CWORD={len(line) - 1}
        _shtab_ifserver 2> /dev/null  # it is called by the shell alone, and complains
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    expected, most = OFFERED[words]
    found = shown(["bash", "--norc", "-c", script])
    assert expected <= found
    assert len(found) <= most


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_fish(words: tuple[str, ...]) -> None:
    line = " ".join(("ifserver", *words))
    script = f"source {shlex.quote(str(FILES['fish']))}; complete --do-complete {shlex.quote(line)}"
    expected, most = OFFERED[words]
    found = {each.partition("\t")[0] for each in shown(["fish", "--no-config", "-c", script])}
    assert expected <= found
    assert len(found) <= most


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not here")
@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_zsh(words: tuple[str, ...], tmp_path: Path) -> None:
    line = " ".join(("ifserver", *words))
    expected, most = OFFERED[words]
    found = shown(["zsh", "-f", "-c", ZSH, "zsh", str(FILES["zsh"].parent), str(tmp_path), line])
    assert expected <= found
    assert len(found) <= most
