# fish completion for novactl:  novactl completion fish | source

function __novactl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l answer ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test "$answer[1]" = files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $answer
    end
end

complete -c novactl -f -a '(__novactl_complete)'
