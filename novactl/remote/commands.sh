# Commands and files of playbooks: an operator's own words, carried out as they are, in a job where that may take long.

nv_first() { # n words...: carry out the first n of the words
    nv_n=$1
    shift
    nv_others=$(($# - nv_n))
    while [ "$nv_n" -gt 0 ]; do # those to the end, the others away
        set -- "$@" "$1"
        shift
        nv_n=$((nv_n - 1))
    done
    shift "$nv_others"
    "$@"
}

nv_theirs() { # seconds command...: its exit status. A daemon that it leaves behind must not hold a lock of ours
    ( exec 5>&- 6>&- 7>&- 8>&- 9>&-; cd /; exec timeout -k 10 "$@" )
}

nv_holds() { # seconds command...: yes when it ends with 0
    if nv_theirs "$@" </dev/null >/dev/null 2>&1; then echo yes; else echo no; fi
}

nv_run() { # input(base64) seconds n unless(n words)... command...: what it says, then "nv_run: unchanged" or "nv_run: ended STATUS"
    nv_input=$1 nv_seconds=$2 nv_unless=$3
    shift 3
    if [ "$nv_unless" -gt 0 ] && nv_first "$((nv_unless + 2))" nv_theirs "$nv_seconds" "$@" </dev/null >/dev/null 2>&1; then
        echo "nv_run: unchanged"
        return 0
    fi
    shift "$nv_unless"
    nv_status=0
    printf %s "$nv_input" | base64 -d | nv_theirs "$nv_seconds" "$@" || nv_status=$?
    printf '\nnv_run: ended %d\n' "$nv_status"
}

nv_put_file() { # path mode: stdin is its content, there in one step. Says done, or unchanged when it was so before
    nv_where=$(dirname "$1")
    [ -d "$nv_where" ] || nv_die 1 "$nv_where is not a directory"
    [ ! -d "$1" ] || nv_die 1 "$1 is a directory"
    nv_full=$(mktemp "$nv_where/.novactl.XXXXXXXX") || nv_die 1 "cannot write to $nv_where"
    trap 'rm -f "$nv_full"' EXIT
    cat >"$nv_full" || nv_failed "cannot write $1"
    chmod "$2" "$nv_full"
    if [ -f "$1" ] && [ ! -L "$1" ] && [ "$(stat -c %a:%u "$1")" = "$(stat -c %a:%u "$nv_full")" ] && cmp -s "$nv_full" "$1"; then
        echo unchanged
        return 0
    fi
    sync "$nv_full" || nv_failed "cannot write $1"
    mv -T "$nv_full" "$1"
    sync "$nv_where"
    echo "done"
}

nv_boot() { # its boot id, and whether libvirt answers
    read -r nv_id </proc/sys/kernel/random/boot_id
    if nv_theirs 4 virsh -q -c qemu:///system uri </dev/null >/dev/null 2>&1; then echo "$nv_id yes"; else echo "$nv_id no"; fi
}

nv_reboot() { # boot-id command...: carried out in a moment, unless the host has booted since
    read -r nv_id </proc/sys/kernel/random/boot_id
    [ "$nv_id" = "$1" ] || return 0
    shift
    setsid sh -c 'sleep 1; exec "$@"' novactl "$@" </dev/null >/dev/null 2>&1 &
}
