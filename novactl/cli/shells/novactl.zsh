#compdef novactl
# zsh completion for novactl:  source <(novactl completion zsh)
# or as a file _novactl in a directory of $fpath

_novactl() {
    local -a answer
    answer=("${(@f)$("$words[1]" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $answer[1] == files ]]; then
        _files
    elif [[ -n $answer[1] ]]; then
        compadd -Q -S '' -- ${(M)answer:#*=}
        compadd -Q -- ${answer:#*=}
    fi
}

if [[ $funcstack[1] == _novactl ]]; then
    _novactl "$@"
else
    compdef _novactl novactl
fi
