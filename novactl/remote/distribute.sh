# Base files as the fleet's: whether they are still what was published.

nv_base_list() { # base-directory: "name bytes" of each base file that has its sum, or that a fetch will replace
    for nv_path in "$1"/*; do
        nv_name=${nv_path##*/}
        case $nv_name in *[!0-9a-f]*) continue ;; esac
        if [ ${#nv_name} -eq 64 ]; then stat -c "$nv_name %s" "$nv_path" 2>/dev/null || true; fi
    done
}

nv_base_verify() { # mark instances-path name look|act: stdin has the names that the database needs. All of it is read: "ok",
    # "gone", "unmarked" (it waits to be fetched again) or "corrupt used|unused". act: then it is not ready any more, so that
    # who comes next fetches it, and it lies aside unless something uses it
    nv_base=$2/_base
    nv_known=$(cat)
    nv_base_lock "$nv_base" "$3"
    if [ ! -e "$nv_base/$3" ]; then echo gone; return 0; fi
    if [ ! -e "$nv_base/$3.json" ]; then echo unmarked; return 0; fi
    nv_sum=$(nv_base_sum "$nv_base" "$3")
    if [ -n "$nv_sum" ] && [ "$(nv_base_sum_like "$nv_sum" "$nv_base/$3" || true)" = "$nv_sum" ]; then echo ok; return 0; fi
    nv_why=unused
    if nv_has_line "$nv_known" "$3" || nv_base_in_use "$1" "$2" "$3"; then nv_why=used; fi
    if [ "$4" = act ]; then
        rm -f "$nv_base/$3.json"
        [ "$nv_why" = used ] || mv "$nv_base/$3" "$nv_base/.$3.corrupt"
    fi
    echo "corrupt $nv_why"
}

nv_base_sum() { # base-directory name: what its bytes must hash to, "sparse:" before what is no plain SHA-256. One that was not
    # converted has it in its name
    case $(cat "$1/$2.json") in
        *'"source_format": "qcow2"'* | *'"source_format": "vmdk"'*)
            sed -n 's/.*"raw_sha256": "\([0-9a-f]*\)".*/\1/p; s/.*"raw_sparse_sha256": "\([0-9a-f]*\)".*/sparse:\1/p' "$1/$2.json"
            ;;
        *) echo "$2" ;;
    esac
}

nv_base_sum_like() { # sum file: the file's, of the same kind
    case $1 in
        sparse:*) nv_sum=$(nv_digest sparse "$2") && echo "sparse:$nv_sum" ;;
        *) nv_digest sha256 "$2" ;;
    esac
}

nv_base_in_use() { # mark instances-path name: a file beside _base names it, or that cannot be told, or a process has it open
    nv_used=$(nv_prune_named "$1" "$2")
    if nv_has_line "$nv_used" "$1.failed" || ! nv_has_line "$nv_used" "$1.end"; then return 0; fi
    ! nv_has_line "$nv_used" "$3" || return 0
    [ -n "$(find /proc/[0-9]*/fd -lname "$2/_base/$3" -printf x -quit 2>/dev/null || true)" ]
}

# --- from host to host: each gives on what it receives while it receives it ----------------------------------------

# What another host sends must bring a base file on by so much in such a time: else one byte before each read's end would hold
# the lock, the job and the operation for years. 17 KiB/s is less than any link between hosts, and the time is long enough for
# one that gives on what it receives to find another source; holes count, since their end is the file's too.
nv_least=2097152
nv_within_seconds=120

nv_base_take() { # path-without-ending size from seconds [unhashed]: stdin as nv_base_pieces has it. What comes in one go is
    # hashed as it comes
    nv_no_link "$1.part" "$1.pieces"
    nv_where=${1%/*}
    ( umask 077; : >>"$1.part"; : >>"$1.pieces" )
    # what one that was cut has written past where it stands is in no sum: holes that are left out must be holes
    truncate -s "$3" "$1.part" || nv_failed "cannot write the base file"
    rm -f "$1.sum"
    if [ "$3" -ne 0 ] || [ $# -eq 5 ]; then
        nv_base_pieces "$1" "$2" "$4" >/dev/null
        return
    fi
    nv_failure=$({
        { { ( nv_base_pieces "$1" "$2" "$4" ) && echo "$2 0"; } || echo "$?" >&4; } |
            nv_read_along "$1.part" "$2" | nv_digest sha256 /dev/stdin >"$1.sum.new"
    } 4>&1) || nv_failure=${nv_failure:-1}
    [ -z "$nv_failure" ] || exit "$nv_failure"
    cat /proc/sys/kernel/random/boot_id >>"$1.sum.new"
    mv "$1.sum.new" "$1.sum"
}

nv_base_taken() { # path-without-ending: the sum of what came; as it came, unless the host went off since: it is not synced
    if nv_has_line "$(cat "$1.sum" 2>/dev/null || true)" "$(cat /proc/sys/kernel/random/boot_id)"; then
        head -n 1 "$1.sum"
    else
        nv_digest sha256 "$1.part"
    fi
}

nv_base_pieces() { # path-without-ending size seconds: stdin has "offset length [bytes to come]" in 64 bytes, each with its
    # bytes; prints "offset length" of what is written. Nothing is kept of what there is no room for. Each read has its time: a
    # link that was cut leaves no receiver behind that holds the lock. .pieces tells the same to those who get it from here; what
    # is written at once grows with the link's speed, since whoever waits behind a slow one should not wait long, and each time
    # costs processes
    nv_part=$1.part nv_end=0 nv_most=524288
    while nv_line=$(timeout "$3" dd bs=64 count=1 iflag=fullblock status=none) && [ -n "$nv_line" ]; do
        nv_off=${nv_line%% *} nv_len=${nv_line#* }
        nv_rest=${nv_len#* } nv_len=${nv_len%% *}
        nv_rest=${nv_rest%% *}
        nv_digits "$nv_off" "$nv_len" "${nv_rest:=$nv_len}"
        if [ "$nv_len" -eq 0 ]; then
            { truncate -s "$2" "$nv_part" && nv_base_stands_at "$1.pos" "$2" && echo "$2 0" >>"$1.pieces"; } ||
                nv_failed "cannot finish the base file"
            return 0
        fi
        nv_in_turn "$nv_end" "$nv_off" "$nv_len" "$2"
        [ "$nv_rest" -ge "$nv_len" ] || nv_rest=$nv_len
        nv_need_room "$nv_rest" "what is to come" "$nv_part" "$1.pos" "$1.pieces" "$1.sum.new"
        while [ "$nv_len" -gt 0 ]; do
            nv_progress "$((nv_off * 100 / $2)) %"
            nv_n=$((nv_len < nv_most ? nv_len : nv_most))
            nv_hundredths && nv_began=$nv_now
            timeout "$3" dd of="$nv_part" bs=1048576 iflag=fullblock,count_bytes count="$nv_n" \
                oflag=seek_bytes,nofollow seek="$nv_off" conv=notrunc status=none || nv_failed "cannot write the base file"
            nv_end=$((nv_off + nv_n))
            [ "$(stat -c %s "$nv_part")" -ge "$nv_end" ] || nv_die 1 "the transfer was cut"
            { echo "$nv_off $nv_n" >>"$1.pieces" && nv_base_stands_at "$1.pos" "$nv_end"; } ||
                nv_failed "cannot write the base file"
            echo "$nv_off $nv_n"
            nv_off=$nv_end nv_len=$((nv_len - nv_n))
            nv_hundredths
            if [ -n "${nv_paced-}" ]; then nv_base_keeps_pace "$nv_end"; fi
            case $((nv_now - nv_began)) in
                [0-5]) nv_most=$((nv_most < 16777216 ? nv_most * 2 : nv_most)) ;;
                ? | 1?) ;;
                *) nv_most=$((nv_most > 524288 ? nv_most / 2 : nv_most)) ;;
            esac
        done
    done
    nv_die 1 "the transfer was cut"
}

nv_base_keeps_pace() { # bytes: where it stands now; dies when that is too little. nv_paced is where it stood, and when
    case $nv_paced in
        begins) nv_paced="$1 $nv_now" ;;
        *)
            [ "$((nv_now - ${nv_paced#* }))" -ge "$((nv_within_seconds * 100))" ] || return 0
            [ "$(($1 - ${nv_paced% *}))" -ge "$nv_least" ] ||
                nv_die 76 "it sends less than $((nv_least >> 20)) MiB in $nv_within_seconds s"
            nv_paced="$1 $nv_now"
            ;;
    esac
}

nv_hundredths() { # nv_now is the time since boot in hundredths of a second; no process is started for it
    read -r nv_now _ </proc/uptime
    nv_now=$((${nv_now%.*} * 100 + 1${nv_now#*.} - 100))
}

nv_base_pull() { # op base-directory name size source-format version virtual-size source|any|sparse:SUM [wait]: a job. The base
    # file comes from the target of the operation's key: its source as it arrives there, which its name proves; or what was made
    # of it there, if it hashes to SUM; any: which only that host vouches for. wait: that host will get it
    exec 9>&-
    nv_where=$2
    nv_base_lock "$2" "$3"
    nv_tries=0
    until [ -e "$2/$3.json" ]; do
        nv_rc=0
        nv_base_pull_once "$@" || nv_rc=$?
        [ "$nv_rc" -ne 0 ] || break
        nv_tries=$((nv_tries + 1))
        case $nv_rc in
            28) exit 28 ;; # it has been told
            4 | 76) nv_tries=2 ;; # it would be no other
        esac
        if [ "$nv_tries" -ge 2 ]; then
            [ -s "$2/.$3.pieces" ] || rm -f "$2/.$3.part" "$2/.$3.pieces" "$2/.$3.sum.new" # it has nothing to give on
            nv_die "$nv_rc" "the other host: $(cat "$nv_job/said")"
        fi
        sleep 1
    done
    [ ! -e "$2/$3.json" ] || return 0
    if [ "$nv_offer" = source ]; then
        nv_base_finish "$2" "$3" "$5" "$6" "$7"
    else
        nv_base_finish_copy "$2" "$3" "$5" "$6" "${nv_offer#raw }"
    fi
}

nv_base_pull_once() { # as nv_base_pull. Fails with the status of what went wrong; $nv_job/said tells
    nv_offer=source # of nothing else there is need to ask
    if [ "$8" != source ]; then
        nv_timeout=60
        nv_offer=$({ nv_trust_ssh "$1" target offer </dev/null 2>"$nv_job/said" || echo "failed $?"; } | head -c 200)
        nv_timeout=
    fi
    case $nv_offer,$5,$8 in
        failed\ *) nv_digits "${nv_offer#failed }" && return "${nv_offer#failed }" ;;
        source,*) nv_prefix=$2/.$3 nv_size=$4 ;;
        raw\ *" $7",qcow2,any | raw\ *" $7",vmdk,any) nv_prefix=$2/.$3.copy nv_size=$7 ;;
        "raw $8 $7",qcow2,sparse:* | "raw $8 $7",vmdk,sparse:* | "raw "[!s]*" $7",qcow2,sparse:* | "raw "[!s]*" $7",vmdk,sparse:*)
            # one that was judged by all its bytes is judged by ours
            nv_offer="raw $8 $7" nv_prefix=$2/.$3.copy nv_size=$7
            ;;
        raw\ *,*,sparse:*)
            echo "what was made of it there is not what was first made of it" >"$nv_job/said"
            return 4
            ;;
        raw\ *)
            echo "it has only what was made of it" >"$nv_job/said"
            return 4
            ;;
        *)
            echo "it has nothing of it yet" >"$nv_job/said"
            return 4
            ;;
    esac
    case $nv_offer in "raw sparse:"*) nv_unhashed=unhashed ;; *) nv_unhashed= ;; esac
    nv_have=$(nv_base_have "$nv_prefix")
    if [ "$nv_have" != "$nv_size" ]; then
        nv_pack=plain
        if command -v zstd >/dev/null 2>&1; then nv_pack=zstd; fi
        rm -f "$nv_job/gave" "$nv_job/giver"
        {
            nv_trust_become "$1" target give "${nv_offer%% *}" "$nv_have" "$nv_size" "$nv_pack" "${9-}" \
                </dev/null 2>"$nv_job/said" &
            echo "$!" >"$nv_job/giver"
            wait "$!" || echo "$?" >"$nv_job/gave"
        } | { nv_unpacked | nv_take_given "$nv_prefix" "$nv_size" "$nv_have" 90 $nv_unhashed; } 2>"$nv_job/took" || {
            nv_rc=$?
            [ "$(cat "$nv_job/gave" 2>/dev/null)" != 4 ] || return 4 # it has none: no need to ask it again
            if [ "$nv_rc" -eq 76 ]; then mv "$nv_job/took" "$nv_job/said"; else cat "$nv_job/took" >&2; fi
            return "$nv_rc"
        }
    fi
}

nv_take_given() { # as nv_base_take, at a pace. However it ends, who gives it may not keep us waiting
    nv_rc=0 nv_paced=begins
    ( nv_base_take "$@" ) || nv_rc=$?
    until [ -s "$nv_job/giver" ]; do sleep 0.05; done
    read -r nv_giver <"$nv_job/giver"
    if [ "$nv_rc" -ne 0 ]; then timeout 5 tail -s 0.1 --pid "$nv_giver" -f /dev/null || true; fi # it may say why
    kill "$nv_giver" 2>/dev/null || true
    return "$nv_rc"
}

nv_unpacked() { # the first 8 bytes tell whether the rest is as it is
    nv_how=$(dd bs=8 count=1 iflag=fullblock status=none)
    case $nv_how in
        zstd*) zstd -dcq ;;
        plain*) cat ;;
        *) nv_die 1 "the transfer was cut" ;;
    esac
}

nv_base_finish_copy() { # base-directory name source-format version "sum size": what was made of the source elsewhere is here
    case $3 in qcow2 | vmdk) ;; *) nv_die 76 "nothing is made of $3: its name is its sum" ;; esac
    nv_raw=$1/.$2.raw
    nv_progress "checking"
    case $5 in
        sparse:*) nv_sum=$(nv_base_sum_like "$5" "$1/.$2.copy.part") ;;
        *) nv_sum=$(nv_base_taken "$1/.$2.copy") ;;
    esac
    if [ "$nv_sum" != "${5%% *}" ]; then
        rm -f "$1/.$2.copy."*
        nv_die 1 "the base file arrived damaged; it will be sent again"
    fi
    mv "$1/.$2.copy.part" "$nv_raw"
    nv_base_publish "$@"
}

nv_serve() { # base-directory name: all that the operation's key may do here; what is asked for comes from ssh: hello, offer,
    # give source|raw FROM SIZE plain|zstd [wait]
    exec 9>&-
    set -f
    # shellcheck disable=SC2086  # words of ours, without quotes
    set -- "$1" "$2" ${SSH_ORIGINAL_COMMAND-}
    nv_where=$1
    case ${3-} in
        hello) ;;
        offer) nv_offered "$1" "$2" ;;
        give)
            [ $# -eq 7 ] || [ "$#,${8-}" = 8,wait ] || nv_die 2 "this key may not do that"
            nv_digits "$5" "$6"
            nv_await "$1" "$2" "${8-}"
            nv_now=$(nv_offered "$1" "$2")
            case ${nv_now%% *} in
                "$4") ;;
                none) nv_die 4 "it has nothing of it yet" ;;
                *) nv_die 4 "it has only what was made of it" ;;
            esac
            nv_packed "$1/.$2" "$7" nv_give "$1" "$2" "$5" "$6"
            ;;
        *) nv_die 2 "this key may not do that" ;;
    esac
}

nv_offered() { # base-directory name: "source", "raw SUM SIZE" of what was made of it, or "none"
    touch -c "$1/$2.json" # as nv_base_state: nobody prunes it now
    if [ -e "$1/$2" ] && [ -e "$1/$2.json" ]; then
        nv_sum=$(nv_base_sum "$1" "$2")
        if [ "$nv_sum" = "$2" ]; then echo source; else echo "raw $nv_sum $(stat -c %s "$1/$2")"; fi
    elif [ -e "$1/.$2.part" ] && { [ -s "$1/.$2.pieces" ] || nv_comes "$1" "$2"; }; then
        echo source
    else
        echo none
    fi
}

nv_comes() { # base-directory name: somebody receives its source here
    [ -e "$1/.$2.pieces" ] && ! flock -s -n "$1/.lock.$2" true
}

nv_await() { # base-directory name [wait]: some of it is here, if somebody brings it now; wait: also when nobody does so yet
    nv_idle=0
    until [ -e "$1/$2.json" ] || [ -s "$1/.$2.pieces" ] || [ "$nv_idle" -ge 1000 ]; do
        [ "$3" = wait ] || nv_comes "$1" "$2" || return 0
        nv_idle=$((nv_idle + 1))
        sleep 0.05
    done
}

nv_give() { # base-directory name from size: the pieces from there on
    nv_size=$4
    if [ -e "$1/$2.json" ]; then
        cd "$1"
        nv_send_pieces "$2" "$3"
    else
        nv_give_growing "$1" "$2" "$3"
    fi
}

nv_give_growing() { # base-directory name from: what comes here, as it comes; the files may have other names by then, or none
    exec 3<"$1/.$2.part" 4<"$1/.$2.pieces"
    nv_at=$3 nv_idle=0
    while [ "$nv_idle" -lt 1200 ]; do
        while read -r nv_off nv_len <&4; do
            nv_idle=0
            if [ "$nv_len" -eq 0 ]; then
                printf '%-63s\n' "$nv_off 0"
                return 0
            fi
            nv_end=$((nv_off + nv_len))
            [ "$nv_end" -gt "$nv_at" ] || continue
            if [ "$nv_off" -lt "$nv_at" ]; then nv_off=$nv_at nv_len=$((nv_end - nv_at)); fi
            printf '%-63s\n' "$nv_off $nv_len"
            dd if=/dev/fd/3 bs=1048576 iflag=skip_bytes,count_bytes skip="$nv_off" count="$nv_len" status=none || exit 1
            nv_at=$nv_end
        done
        nv_idle=$((nv_idle + 1))
        sleep 0.05
    done
    nv_die 1 "nothing comes there any more"
}

nv_packed() { # path-without-ending plain|zstd function arguments...: what it says, packed when a sample says that it pays
    nv_sample=$1.part
    [ -e "$nv_sample" ] || nv_sample=${1%/*}/${1##*/.}
    nv_how=$2
    shift 2
    if [ "$nv_how" = zstd ] && ! nv_pays "$nv_sample"; then nv_how=plain; fi
    printf '%-7s\n' "$nv_how"
    if [ "$nv_how" = zstd ]; then "$@" | zstd -1 -cq; else "$@"; fi
}

nv_pays() { # file: zstd takes a fifth off its data, by a sample of 1 MiB
    command -v zstd >/dev/null 2>&1 || return 1
    nv_least=$(nv_pieces_of "$1" | { read -r nv_off nv_len && dd if="$1" bs=65536 iflag=skip_bytes,count_bytes skip="$nv_off" \
        count="$((nv_len < 1048576 ? nv_len : 1048576))" status=none | zstd -1 -cq | wc -c; echo "$nv_len"; } | tr '\n' ' ')
    # shellcheck disable=SC2086  # two numbers
    set -- $nv_least
    [ $# -eq 2 ] && [ "$(($1 * 5))" -lt "$((($2 < 1048576 ? $2 : 1048576) * 4))" ]
}

nv_pieces_of() { # file: "offset length" of its first data
    nv_size=$(stat -c %s "$1")
    nv_pieces "$1" 0 | head -n 1
}

nv_read_along() { # file size: stdin has "offset length" of what has been written to it, in order; prints all of the file
    nv_at=0
    while read -r nv_off nv_len; do
        head -c "$((nv_off - nv_at))" /dev/zero
        dd if="$1" bs=1048576 iflag=skip_bytes,count_bytes skip="$nv_off" count="$nv_len" status=none
        nv_at=$((nv_off + nv_len))
    done
}
