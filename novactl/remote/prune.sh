# Pruning: base files that nothing on this host needs, and what transfers left. A base file is in use while the database
# says so, while any file beside _base names it (overlays, whosoever they are, and domains), and while it is open.

nv_prune() { # mark instances-path seconds look|remove: stdin has the names that the database needs, one a line.
    # Says "name bytes time state" of each base file and, with a dot before the name, of each left-over. The mark ends
    # what was read of the files: nobody could have foreseen it.
    nv_base=$2/_base nv_mode=$4
    [ -d "$nv_base" ] || return 0
    nv_known=$(cat)
    nv_used=$(nv_prune_named "$1" "$2")
    if nv_has_line "$nv_used" "$1.failed" || ! nv_has_line "$nv_used" "$1.end"; then
        nv_die 1 "cannot read all files in $2: nothing is pruned"
    fi
    # processes come and go meanwhile, which is no failure
    nv_open=$(find /proc/[0-9]*/fd -lname "$nv_base/*" -printf '%l\n' 2>/dev/null) || true
    nv_oldest=$(($(date +%s) - $3))
    for nv_path in "$nv_base"/*; do
        nv_name=${nv_path##*/}
        if nv_is_base "$nv_name"; then nv_prune_base; fi
    done
    nv_before=
    for nv_path in "$nv_base"/.*.part "$nv_base"/.*.pos "$nv_base"/.*.pos.new "$nv_base"/.*.raw "$nv_base"/.*.json \
        "$nv_base"/.*.corrupt; do
        nv_name=${nv_path##*/.}
        nv_name=${nv_name%%.*}
        if ! nv_is_base "$nv_name" || nv_has_line "$nv_before" "$nv_name"; then continue; fi
        nv_before="$nv_before
$nv_name"
        nv_prune_part
    done
}

nv_is_base() { # name: of a base file of ours
    nv_plain=$1
    case $1 in ephemeral_* | swap_*) nv_plain=${1%_v2} ;; esac
    case $nv_plain in
        ephemeral_*[!0-9]*_ext4 | ephemeral__ext4 | swap_*[!0-9]* | swap_) return 1 ;;
        ephemeral_*_ext4 | swap_*) return 0 ;;
        *[!0-9a-f]*) return 1 ;;
    esac
    [ ${#nv_plain} -eq 64 ]
}

nv_prune_named() { # mark instances-path: what files beside _base name. An overlay has it in its first cluster.
    # The marks stand on lines of their own: the last file may end in hex digits
    {
        find -L "$2" -path "$2/_base" -prune -o -type f -exec head -q -c 65536 {} + ||
            printf '\n%s.failed\n' "$1"
        printf '\n%s.end\n' "$1"
    } | tr '\000' '\n' | grep -aoE "[0-9a-f]{64}|(ephemeral_[0-9]+_ext4|swap_[0-9]+)(_v2)?|$1\\.(failed|end)" | sort -u
}

nv_prune_base() { # what becomes of $nv_path
    nv_stamp=$nv_path.json
    if [ ! -e "$nv_stamp" ]; then nv_stamp=$nv_path; fi
    if nv_has_line "$nv_known" "$nv_name"; then nv_why=used-in-database
    elif nv_has_line "$nv_used" "$nv_name"; then nv_why=used-here
    elif nv_has_line "$nv_open" "$nv_path"; then nv_why=open
    else nv_why=
    fi
    nv_measure "$nv_stamp" "$nv_path" || return 0
    if [ -n "$nv_why" ]; then
        if [ "$nv_mode" = remove ]; then touch -c "$nv_stamp"; fi # the time counts from its last use
    elif [ "$nv_time" -gt "$nv_oldest" ]; then nv_why=young
    elif [ "$nv_mode" = look ]; then nv_why=unused
    else nv_why=$(nv_prune_remove)
    fi
    echo "$nv_name $nv_bytes $nv_time $nv_why"
}

nv_measure() { # stamped-file file...: nv_time is when the first was changed, nv_bytes what the others take
    nv_time=$(stat -c %Y "$1" 2>/dev/null) || return 1
    shift
    nv_bytes=0
    for nv_file in "$@"; do
        nv_blocks=$(stat -c %b "$nv_file" 2>/dev/null) || continue
        nv_bytes=$((nv_bytes + nv_blocks * 512))
    done
}

nv_prune_remove() { # $nv_path is gone, if nobody came for it meanwhile; says what happened
    exec 7>"$nv_base/.lock.$nv_name"
    if ! flock -n 7; then
        echo busy
        return 0
    fi
    if [ -e "$nv_path.json" ]; then # without it the file is not ready for anybody: who comes now fetches it again
        nv_stamp=$nv_base/.$nv_name.json
        mv "$nv_path.json" "$nv_stamp"
        if [ "$(stat -c %Y "$nv_stamp")" -gt "$nv_oldest" ]; then
            mv "$nv_stamp" "$nv_path.json"
            echo young
            return 0
        fi
    elif [ "$(stat -c %Y "$nv_path")" -gt "$nv_oldest" ]; then
        echo young
        return 0
    fi
    rm -f "$nv_path" "$nv_base/.$nv_name.json"
    echo removed
}

nv_prune_part() { # what becomes of what a transfer of $nv_name left
    nv_newest=$(stat -c %Y "$nv_base/.$nv_name".* 2>/dev/null | sort -n | tail -n 1)
    nv_measure "$nv_path" "$nv_base/.$nv_name".* || return 0
    nv_time=${nv_newest:-$nv_time}
    if [ "$nv_time" -gt "$nv_oldest" ]; then nv_why=young
    elif [ "$nv_mode" = look ]; then nv_why=unused
    else
        nv_why=busy
        if ( nv_remove_part "$nv_base" "$nv_name" ) 2>/dev/null; then nv_why=removed; fi
    fi
    echo ".$nv_name $nv_bytes $nv_time $nv_why"
}
