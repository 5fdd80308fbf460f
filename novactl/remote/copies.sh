# An instance that goes to another host while its guest is off: its directory set aside as <uuid>_resize until the move is
# confirmed, its files sent to the target under the operation's key (trust.sh), its disks grown.

nv_need_off() { # uuid: dies unless its guest is off, or there is none
    nv_word=$(nv_domain_state "$1") || exit
    case $nv_word in
        "shut off" | crashed | none) ;;
        *) nv_die 1 "the guest is $nv_word" ;;
    esac
}

nv_leave_domain() { # uuid: off, and no longer defined; its NVRAM stays
    nv_need_off "$1"
    nv_drop_domain "$1" --keep-nvram
}

nv_set_aside() { # directory uuid nvram: no longer defined, its directory (with a copy of its NVRAM) is <directory>_resize
    nv_where=${1%/*}
    nv_leave_domain "$2"
    [ -d "$1" ] || [ ! -d "$1_resize" ] || return 0
    [ ! -e "$1_resize" ] || nv_die 76 "$1_resize is there already"
    nv_copy_nvram "$1" "$3"
    nv_where=${1%/*}
    mv -T "$1" "$1_resize"
    sync "$nv_where"
}

nv_copy_nvram() { # directory nvram: a copy is with its files. install follows no link that is in its way
    nv_where=$1
    [ -e "$2" ] || return 0
    install -T -m 0600 "$2" "$1/.nvram.new" || nv_failed "cannot copy its NVRAM"
    sync "$1/.nvram.new" || nv_failed "cannot copy its NVRAM"
    mv -T "$1/.nvram.new" "$1/nvram"
}

nv_bring_back() { # directory: <directory>_resize is the instance's directory again
    [ -d "$1_resize" ] || [ ! -d "$1" ] || return 0
    [ ! -e "$1" ] || nv_die 76 "$1 is there already"
    mv -T "$1_resize" "$1"
    sync "${1%/*}"
}

nv_clean_up() { # directory uuid nvram directory|aside|nothing: what a move leaves on the host that the instance is not on
    if nv_has_domain "$2"; then nv_die 1 "its domain is still defined here"; fi
    case $4 in
        directory) nv_remove_directory "$1" ;;
        aside) nv_remove_directory "$1_resize" ;;
    esac
    rm -f "$3"
}

nv_remove_all() { # directory: of the instance, and what a move has set aside
    nv_remove_directory "$1"
    nv_remove_directory "$1_resize"
}

nv_place_nvram() { # directory nvram: the copy with its files is the domain's, and no copy any more
    nv_where=${2%/*}
    nv_no_link "$1/nvram"
    [ -e "$1/nvram" ] || return 0
    install -D -m 0600 "$1/nvram" "$2" || nv_failed "cannot write its NVRAM"
    sync "$2" || nv_failed "cannot write its NVRAM"
    rm -f "$1/nvram"
}

nv_grow() { # directory file bytes: a qcow2 disk has at least this size; it never shrinks
    cd "$1"
    nv_where=$1
    nv_size=$(nv_image_tool qemu-img info -f qcow2 --output=json "$2" | sed -n 's/^ *"virtual-size": \([0-9]*\),*$/\1/p' | tail -n 1)
    [ -n "$nv_size" ] || nv_die 1 "qemu-img does not tell the size of $2"
    [ "$nv_size" -lt "$3" ] || return 0
    nv_image_tool qemu-img resize -q -f qcow2 "$2" "$3" || nv_failed "cannot grow $2"
}

nv_remake() { # directory file base-name bytes: an empty overlay of this size takes the file's place; no base: none does
    rm -f "$1/$2"
    if [ -n "$3" ]; then nv_overlay "$1" "$2" "$3" "$4"; fi
}

nv_disk_sizes() { # directory file...: "file length allocated" in bytes of those that are there
    nv_where=$1
    shift
    for nv_file in "$@"; do
        if [ -e "$nv_where/$nv_file" ]; then
            echo "$nv_file $(stat -c '%s %b %B' "$nv_where/$nv_file" | { read -r nv_a nv_b nv_c; echo "$nv_a $((nv_b * nv_c))"; })"
        fi
    done
}

nv_digest() { # gmac|sha256|sparse file. GMAC finds damage in a third of the time; the key is no secret, since who
    # could forge it holds the operation's key. openssl uses the processor's instructions, sha256sum of Debian 12 does not
    if [ "$1" = sparse ]; then
        nv_sum_of nv_sparse_sums "$2"
    elif [ "$1" = gmac ]; then
        openssl mac -cipher AES-128-GCM -macopt hexkey:00000000000000000000000000000001 \
            -macopt hexiv:000000000000000000000000 -in "$2" GMAC
    elif command -v openssl >/dev/null 2>&1; then
        nv_out=$(openssl dgst -sha256 -r "$2") && echo "${nv_out%% *}"
    else
        sha256sum "$2" | cut -d ' ' -f 1
    fi
}

nv_sum_of() { # command...: the SHA-256 of what it prints; fails when it does
    nv_hex=$({ { "$@" || echo failed >&4; } | nv_digest sha256 /dev/stdin; } 4>&1)
    case $nv_hex in '' | *failed*) return 1 ;; esac
    echo "$nv_hex"
}

nv_sparse_sums() { # file: its length, then "index SHA-256" of each piece of 16 MiB that is not all zeros, the last one in any
    # case: so what is a hole is not read, and whether zeros are one makes no difference
    nv_size=$(stat -c %s "$1") && nv_list=$(nv_extents "$1") || return
    nv_list=$(echo "$nv_list" | awk -v size="$nv_size" 'BEGIN {piece = 16777216; next_one = 0} {
        n = int($1 / piece)
        for (n = n < next_one ? next_one : n; n * piece < $1 + $2; n++) printf "%.0f\n", n
        next_one = n
    } END {if (size % piece && next_one * piece <= size) printf "%.0f\n", int(size / piece)}')
    echo "$nv_size"
    # two at a time: to start openssl takes half of what a piece takes. Who was killed has not said that it is whole
    nv_sums=$({
        nv_piece_sums "$1" 0 "$nv_list" &
        nv_piece_sums "$1" 1 "$nv_list" && wait "$!" && echo whole
    } | sort -n)
    nv_has_line "$nv_sums" whole || return 1
    printf '%s\n' "$nv_sums" | sed '/^whole$/d'
}

nv_piece_sums() { # file 0|1 indices: "index SHA-256" of every second one of these pieces of 16 MiB, unless it is all zeros
    nv_turn=$2
    for nv_n in $3; do
        nv_turn=$((1 - nv_turn))
        [ "$nv_turn" -eq 1 ] || continue
        nv_hex=$(nv_sum_of dd if="$1" bs=1048576 skip="$((nv_n * 16))" count=16 status=none) || return
        case $nv_hex in 080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e) ;; *) echo "$nv_n $nv_hex" ;; esac
    done
}

nv_knows_gmac() { # OpenSSL 3 does
    nv_digest gmac /dev/null >/dev/null 2>&1
}

# --- source: a job ---------------------------------------------------------------------------------------------

nv_send() { # op directory file: the target has the file, whole and checked. Goes on where it was cut
    exec 9>&- # a takeover must not wait for it: it ends the job, or goes on with it
    cd "$2"
    [ "$3" != nvram ] || [ -e nvram ] || return 0 # libvirt makes the first at the guest's first start
    nv_said=$nv_job/said nv_size=$(stat -c %s "$3") nv_tries=0
    nv_kind=gmac
    nv_knows_gmac || nv_kind=sha256
    nv_hash "$3"
    nv_have=0 # the target refuses it when that is not so
    while
        nv_rc=0
        nv_send_rest "$1" "$3" || nv_rc=$?
        [ "$nv_rc" -ne 0 ]
    do
        nv_have=
        nv_tries=$((nv_tries + 1))
        case $nv_rc in
            2 | 28 | 75 | 76) nv_tries=99 ;;
            69) # the target knows no GMAC
                nv_kind=sha256
                nv_hash "$3"
                ;;
        esac
        [ "$nv_tries" -lt 20 ] || nv_die "$nv_rc" "the target: $(cat "$nv_said")"
        case $nv_rc in 69 | 77) ;; *) sleep 2 ;; esac
    done
}

nv_hash() { # file: read in the background; its sum is in the job's directory when the lock there is free again
    exec 4>"$nv_job/hashing"
    flock 4 # the sum before, when it was of another kind
    rm -f "$nv_job/sum"
    { nv_digest "$nv_kind" "$1" >"$nv_job/sum" || rm "$nv_job/sum"; } &
    exec 4>&-
}

nv_send_rest() { # op file: fails with the status of what went wrong; $nv_said tells
    if [ -z "$nv_have" ]; then
        nv_have=$({ nv_trust_share "$1" target have "$2" </dev/null 2>"$nv_said" || echo "failed $?"; } | head -c 32)
        case $nv_have in
            ready) return 0 ;;
            *failed*) nv_digits "${nv_have##* }" && return "${nv_have##* }" ;;
            '' | *[!0-9]*) return 1 ;;
        esac
    fi
    { nv_send_pieces "$2" "$nv_have" && nv_send_sum "$2"; } 2>/dev/null |
        nv_trust_share "$1" target take "$2" "$nv_size" "$nv_have" "$nv_kind" >/dev/null 2>"$nv_said"
}

nv_send_sum() { # file: after its pieces
    nv_progress "checking $1"
    flock "$nv_job/hashing" cat "$nv_job/sum"
}

nv_send_pieces() { # file from: each piece that holds data, after "offset length" in 64 bytes; 0 bytes at the end
    nv_pieces "$1" "$2" | while read -r nv_off nv_len; do
        nv_progress "$1 $((nv_off * 100 / nv_size)) %"
        printf '%-63s\n' "$nv_off $nv_len"
        dd if="$1" bs=1048576 iflag=skip_bytes,count_bytes skip="$nv_off" count="$nv_len" status=none || exit 1
    done
    printf '%-63s\n' "$nv_size 0"
}

nv_extents() { # file: "offset length" of what holds data; what the format is does not matter
    nv_map=$(nv_image_tool qemu-img map -f raw --output=json "$1") || return
    printf '%s\n' "$nv_map" | sed -n 's/.*"start": \([0-9]*\), "length": \([0-9]*\),.*"data": true.*/\1 \2/p'
}

nv_pieces() { # file from: "offset length" of what holds data from there on, 64 MiB at most
    nv_extents "$1" | nv_clip "$2"
}

nv_clip() { # from: stdin has "offset length" of extents; what of them is from there on, below $nv_size, 64 MiB at most
    awk -v from="$1" -v size="$nv_size" '{
        at = $1 > from ? $1 : from
        end = $1 + $2 < size ? $1 + $2 : size
        for (; at < end; at += n) {
            n = end - at < 67108864 ? end - at : 67108864
            printf "%.0f %.0f\n", at, n
        }
    }'
}

# --- target: all that the operation's key may do there -----------------------------------------------------------

nv_receive() { # directory [file=most-bytes...]: what is asked for comes from ssh: hello, have FILE, take FILE SIZE FROM HASH. Without
    # bounds, as keys of before have it, all files may come
    exec 9>&-
    set -f
    nv_where=$1
    shift
    nv_bounds=$*
    # shellcheck disable=SC2086  # words of ours, without quotes
    set -- "$nv_where" ${SSH_ORIGINAL_COMMAND-}
    [ "${2-}" != hello ] || return 0
    case ${3-} in
        disk | disk.local | nvram) ;;
        *) nv_die 2 "this key may not do that" ;;
    esac
    cd "$1"
    exec 7>".$3.lock"
    flock -w 60 7 || nv_die 77 "another transfer of $3 is under way"
    case $2 in
        have) if [ -e "$3" ]; then echo ready; else nv_base_have ".$3"; fi ;;
        take) nv_take "$3" "$4" "$5" "${6-}" ;;
        *) nv_die 2 "this key may not do that" ;;
    esac
}

nv_take() { # file size from hash: stdin has the pieces (nv_send_pieces), then the file's sum
    nv_digits "$2" "$3"
    if [ -n "$nv_bounds" ]; then nv_within "$1" "$2" "$nv_bounds"; fi
    case $4 in
        gmac) nv_knows_gmac || nv_die 69 "openssl here has no GMAC" ;;
        sha256) ;;
        *) nv_die 2 "$4 is not a hash" ;;
    esac
    nv_part=.$1.part nv_pos=.$1.pos
    [ ! -e "$1" ] || nv_die 77 "$1 is here already"
    [ "$3" = "$(nv_base_have ".$1")" ] || nv_die 77 "the transfer stands elsewhere by now"
    ( umask 077; : >>"$nv_part" )
    nv_take_pieces "$1" "$2"
    wait "$!" || nv_failed "cannot write $1"
    nv_take_end "$1" "$4"
}

nv_within() { # file size "file=most-bytes...": dies when it is larger than its disk can make it
    for nv_bound in $3; do
        if [ "${nv_bound%%=*}" = "$1" ] && [ "$2" -le "${nv_bound#*=}" ]; then return 0; fi
    done
    nv_die 76 "$1 of $2 bytes is more than it can have ($3)"
}

nv_digits() { # words of somebody else's: whole numbers and no more, since the shell would calculate with them
    for nv_word in "$@"; do
        case $nv_word in '' | *[!0-9]* | ????????????????*) nv_die 2 "$nv_word is not a number" ;; esac
    done
}

nv_in_turn() { # end offset length size: of a piece that somebody else sends: after the one before it, and within the file
    if [ "$2" -lt "$1" ] || [ $(($2 + $3)) -gt "$4" ]; then nv_die 2 "a piece of $3 bytes at $2 is out of turn"; fi
}

nv_take_pieces() { # file size
    nv_end=0 nv_unsynced=0
    true &
    while nv_line=$(timeout 60 dd bs=64 count=1 iflag=fullblock status=none) && [ -n "$nv_line" ]; do
        nv_off=${nv_line%% *} nv_len=${nv_line#* }
        nv_len=${nv_len%% *}
        nv_digits "$nv_off" "$nv_len"
        if [ "$nv_len" -eq 0 ]; then
            truncate -s "$2" "$nv_part" || nv_failed "cannot write $1"
            nv_base_stands_at "$nv_pos" "$2"
            return 0
        fi
        nv_in_turn "$nv_end" "$nv_off" "$nv_len" "$2"
        timeout 600 dd of="$nv_part" bs=1048576 iflag=fullblock,count_bytes count="$nv_len" oflag=seek_bytes seek="$nv_off" \
            conv=notrunc status=none || nv_failed "cannot write $1"
        nv_end=$((nv_off + nv_len))
        [ "$(stat -c %s "$nv_part")" -ge "$nv_end" ] || nv_die 1 "the transfer was cut"
        nv_base_stands_at "$nv_pos" "$nv_end"
        nv_unsynced=$((nv_unsynced + nv_len))
        if [ "$nv_unsynced" -ge 67108864 ]; then # while the next ones come, the disk is busy too
            wait "$!" || nv_failed "cannot write $1"
            sync "$nv_part" &
            nv_unsynced=0
        fi
    done
    nv_die 1 "the transfer was cut"
}

nv_take_end() { # file hash: what came is the file, if stdin says the same sum
    sync "$nv_part" & # the disk is busy, a processor reads what is still in memory
    nv_sum=$(nv_digest "$2" "$nv_part")
    nv_word=$(timeout 3600 head -c 65) # the source may be slower
    [ -n "$nv_word" ] || nv_die 1 "the transfer was cut"
    if [ "$nv_sum" != "$nv_word" ]; then
        rm -f "$nv_part" "$nv_pos"
        nv_die 1 "$1 arrived damaged; it will be sent again"
    fi
    wait "$!" || nv_failed "cannot write $1"
    [ "$1" = nvram ] || ( nv_overlay_of "$nv_part" && { [ -z "$nv_bounds" ] || nv_within "$1" "$nv_size" "$nv_bounds"; } ) || {
        nv_rc=$?
        rm -f "$nv_part" "$nv_pos"
        exit "$nv_rc"
    }
    mv "$nv_part" "$1"
    rm -f "$nv_pos"
    sync .
}
