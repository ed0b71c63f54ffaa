"""`fedsmu completion bash | zsh`: a script that completes commands, recipes and dotted keys."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from fedsmu_ray import cli
from fedsmu_ray.cluster.__main__ import COMMANDS as CLUSTER_COMMANDS
from fedsmu_ray.commands import COMMANDS
from fedsmu_ray.files import recipes

EXAMPLES = """in ~/.bashrc:  eval "$(fedsmu completion bash)"
in ~/.zshrc:   eval "$(fedsmu completion zsh)"      (after compinit)
"""
# Words are those of when the script is printed; only options are asked for, by --help.
BASH = Template("""\
_fedsmu() {
    local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words="" files="" word
    if [ "$COMP_CWORD" = 1 ]; then
        words="$commands"
    elif [[ $cur == -* ]]; then
        words=$(fedsmu "$command" --help 2>/dev/null | grep -oE -- "--[a-z][a-z-]*")
    elif [ "$COMP_CWORD" = 2 ] && [ "$command" = recipes ]; then
        words="ls show cp"
    elif [ "$COMP_CWORD" = 2 ] && [ "$command" = cluster ]; then
        words="$cluster"
    elif [ "$COMP_CWORD" = 2 ] && [ "$command" = completion ]; then
        words="bash zsh"
    elif [ "$command" = recipes ]; then
        words="$recipes"
    elif [[ " train tune data config cluster " == *" $command "* ]]; then
        words="$recipes $keys" files=yes
    fi
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(
        compgen -W "$words" -- "$cur"
        if [ "$files" ]; then
            compgen -f -X "!*.y*ml" -- "$cur"
            compgen -d -S / -- "$cur"
        fi
    )
    if [ "${#COMPREPLY[@]}" = 1 ] && [[ ${COMPREPLY[0]} == *[=/] ]]; then
        type compopt >/dev/null 2>&1 && compopt -o nospace  # bash 4
    fi
}
complete -o default -F _fedsmu fedsmu
""")
ZSH = Template("""\
_fedsmu() {
    if (( CURRENT == 2 )); then
        compadd -- $commands
    elif [[ $PREFIX == -* ]]; then
        compadd -- ${(f)"$(fedsmu $words[2] --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*')"}
    elif (( CURRENT == 3 )) && [[ $words[2] == recipes ]]; then
        compadd -- ls show cp
    elif (( CURRENT == 3 )) && [[ $words[2] == cluster ]]; then
        compadd -- $cluster
    elif (( CURRENT == 3 )) && [[ $words[2] == completion ]]; then
        compadd -- bash zsh
    elif [[ $words[2] == recipes ]]; then
        compadd -- $recipes
    elif [[ $words[2] == (train|tune|data|config|cluster) ]]; then
        if compset -P '*='; then
            _files
        else
            compadd -- $recipes
            compadd -S '' -- $keys
            _files -g '*.y(a|)ml'
        fi
    else
        _files
    fi
}
compdef _fedsmu fedsmu
""")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = cli.Parser(
        "completion",
        "Print a script that completes commands, recipes and keys in a shell.",
        EXAMPLES,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    print(script(parser.parse_args(argv).shell), end="")
    return 0


def script(shell: str) -> str:
    """The script for a shell."""
    template = {"bash": BASH, "zsh": ZSH}[shell]
    return template.safe_substitute(
        commands=" ".join(COMMANDS),
        cluster=" ".join(CLUSTER_COMMANDS),
        recipes=" ".join(recipes.names()),
        keys=" ".join(f"{key}=" for key in cli.dotted_keys()),
    )
