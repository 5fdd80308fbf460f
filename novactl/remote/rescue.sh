# Disks of an instance that others take the place of: what was there is kept beside it as <file>.<operation> until that is for good.
# An empty one says that there was none.

nv_disks_aside() { # directory nvram op file...
    nv_where=$1 nv_vars=$2 nv_op=$3
    shift 3
    cd "$nv_where"
    for nv_file in "$@"; do
        if [ -e "$nv_file.$nv_op" ]; then continue; fi
        nv_alone "$nv_file"
        if [ -e "$nv_file" ]; then mv "$nv_file" "$nv_file.$nv_op"; else install -m 0600 /dev/null "$nv_file.$nv_op"; fi
    done
    if [ -e "$nv_vars" ]; then
        install -T -m 0600 "$nv_vars" .nvram.new || nv_failed "cannot copy its NVRAM"
        sync .nvram.new || nv_failed "cannot copy its NVRAM"
        mv .nvram.new "nvram.$nv_op"
        sync .
        rm -f "$nv_vars"
    fi
    sync .
}

nv_alone() { # file: dies when another operation has kept one of it
    for nv_other in "$1".op-*; do
        [ ! -e "$nv_other" ] || nv_die 76 "$nv_other is kept aside: novactl audit --heal decides which one is its disk"
    done
}

nv_disks_back() { # directory nvram op file...: what was kept is in its place again
    nv_where=$1 nv_vars=$2 nv_op=$3
    shift 3
    cd "$nv_where"
    if [ -e "nvram.$nv_op" ]; then
        install -D -m 0600 "nvram.$nv_op" "$nv_vars" || nv_failed "cannot write its NVRAM"
        sync "$nv_vars" || nv_failed "cannot write its NVRAM"
        sync "${nv_vars%/*}"
        rm -f "nvram.$nv_op"
    fi
    for nv_file in "$@"; do
        if [ -s "$nv_file.$nv_op" ]; then mv -f "$nv_file.$nv_op" "$nv_file"
        elif [ -e "$nv_file.$nv_op" ]; then rm -f "$nv_file" "$nv_file.$nv_op"
        fi
    done
    sync .
}

nv_disks_gone() { # directory op file...: what was kept is gone
    cd "$1"
    nv_op=$2
    shift 2
    for nv_file in "$@"; do rm -f "$nv_file.$nv_op"; done
    rm -f "nvram.$nv_op"
}
