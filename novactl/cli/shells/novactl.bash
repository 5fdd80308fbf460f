# bash completion for novactl:  source <(novactl completion bash)

_novactl() {
    local line=${COMP_LINE:0:COMP_POINT} word typed
    COMPREPLY=()
    # Readline replaces what follows the last of COMP_WORDBREAKS, = and : among them: the rest is cut off.
    typed=${line##*[[:space:]]}
    typed=${typed%"${typed##*[=:]}"}
    while IFS= read -r word; do
        if [ "$word" = files ]; then
            compopt -o default
            COMPREPLY=()
            return
        fi
        COMPREPLY+=("${word#"$typed"}")
        case $word in *=) compopt -o nospace ;; esac
    done < <("${COMP_WORDS[0]}" __complete --line "$line" 2>/dev/null)
}

complete -F _novactl novactl
