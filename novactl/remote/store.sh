# The image store that operators share: a directory on this host, or a pool of RBD that it reaches. A file lies there as it was
# added, named by the fleet and its SHA-256. What comes is received and checked as base files are.

nv_store_at() { # fleet directory|pool: nv_store is the directory that it is, or in which what comes for the pool waits
    case $2 in
        /*)
            nv_store=$2/$1
            [ -d "$nv_store" ] || nv_die 1 "$nv_store is not there (is what it lies on mounted?)"
            ;;
        *) nv_store=$nv_state/store/$2 ;;
    esac
}

nv_store_ready() { # fleet directory|pool: it can be used; prints the free bytes of a directory
    case $2 in
        /*)
            ( umask 077; mkdir -p "$2/$1" ) || nv_die 1 "cannot make $2/$1"
            df -B1 --output=avail "$2/$1" | tail -n 1
            ;;
        *)
            command -v rbd >/dev/null 2>&1 || nv_die 1 "has no rbd (Debian: ceph-common)"
            timeout 20 rbd ls --pool "$2" >/dev/null || nv_die 1 "cannot read pool $2"
            ;;
    esac
}

nv_store_state() { # fleet directory|pool name [op n]: as nv_base_state
    nv_store_at "$1" "$2"
    nv_pool=$2 nv_image=$1.$3
    case $2 in
        /*)
            nv_name=$3
            shift 3
            nv_base_state "$nv_store" "$nv_name" any "$@"
            return
            ;;
    esac
    if nv_rbd_has; then
        if [ $# -eq 5 ] && [ -d "$nv_state/job/$4.$5" ]; then nv_job_forget "$4" "$5"; fi
        rm -f "$nv_store/.$3."* # of one who died after he had renamed it
        echo ready
    else
        nv_base_have "$nv_store/.$3"
    fi
}

nv_store_receive() { # fleet directory|pool name size-bytes from: stdin as nv_base_receive has it
    nv_store_at "$1" "$2"
    ( umask 077; mkdir -p "$nv_store" )
    nv_base_receive "$nv_store" "$3" "$4" "$5"
}

nv_store_finish() { # fleet directory|pool name version size: what was received is hashed, and in the store
    nv_store_at "$1" "$2"
    case $2 in
        /*)
            nv_base_finish "$nv_store" "$3" file "$4" "$5"
            return
            ;;
    esac
    nv_pool=$2 nv_image=$1.$3 nv_where=$nv_store
    nv_base_lock "$nv_store" "$3"
    if nv_rbd_has; then return 0; fi
    nv_progress "checking"
    if [ "$(nv_base_taken "$nv_store/.$3")" != "$3" ]; then
        rm -f "$nv_store/.$3."*
        nv_die 1 "the file arrived damaged; it will be sent again"
    fi
    nv_progress "writing to pool $2"
    timeout 600 rbd rm --no-progress --pool "$2" --image "$nv_image.part" 2>/dev/null || true
    rbd import --no-progress --path "$nv_store/.$3.part" --dest-pool "$2" --dest "$nv_image.part" ||
        nv_die 1 "rbd cannot write it to pool $2"
    nv_progress "reading it again"
    [ "$(nv_rbd_sum "$nv_image.part")" = "$3" ] || nv_die 1 "pool $2 does not give back what was written"
    timeout 60 rbd rename --pool "$2" --image "$nv_image.part" --dest-pool "$2" --dest "$nv_image" ||
        nv_die 1 "rbd cannot rename it in pool $2"
    rm -f "$nv_store/.$3."*
}

nv_store_list() { # fleet directory|pool: "name seconds" of each file that is there or came in part, and how long ago
    nv_store_at "$1" "$2"
    nv_now=$(date +%s)
    for nv_path in "$nv_store"/.*.part "$nv_store"/*.json; do
        nv_name=${nv_path##*/}
        nv_name=${nv_name#.}
        nv_time=$(stat -c %Y "$nv_path" 2>/dev/null) || continue
        echo "${nv_name%.*} $((nv_now - nv_time))"
    done
    case $2 in
        /*) ;;
        *)
            nv_names=$(timeout 60 rbd ls --pool "$2") || nv_die 1 "cannot read pool $2"
            for nv_name in $nv_names; do
                case $nv_name in *.part) continue ;; "$1".*) ;; *) continue ;; esac
                nv_made=$(timeout 60 rbd info --pool "$2" --image "$nv_name" | sed -n 's/^\t*create_timestamp: //p')
                nv_time=$(date -d "$nv_made" +%s) || nv_die 1 "cannot tell how old $nv_name in pool $2 is"
                echo "${nv_name#"$1".} $((nv_now - nv_time))"
            done
            ;;
    esac
}

nv_store_verify() { # fleet directory|pool name look|act: all of it is read: ok, gone or corrupt. act: then it is there no more
    nv_store_at "$1" "$2"
    nv_pool=$2 nv_image=$1.$3
    case $2 in
        /*)
            if [ ! -e "$nv_store/$3.json" ]; then echo gone; return 0; fi
            nv_sum=$(nv_digest sha256 "$nv_store/$3") || nv_die 1 "cannot read it"
            ;;
        *)
            if ! nv_rbd_has; then echo gone; return 0; fi
            nv_sum=$(nv_rbd_sum "$nv_image") || nv_die 1 "cannot read it in pool $2"
            ;;
    esac
    if [ "$nv_sum" = "$3" ]; then echo ok; return 0; fi
    if [ "$4" = act ]; then nv_store_drop "$1" "$2" "$3"; fi
    echo corrupt
}

nv_store_drop() { # fleet directory|pool name: it is not there, nor what came of it
    nv_store_at "$1" "$2"
    nv_pool=$2 nv_image=$1.$3
    case $2 in
        /*)
            nv_base_lock "$nv_store" "$3"
            rm -f "$nv_store/$3.json" "$nv_store/$3"
            ;;
        *)
            if nv_rbd_has; then
                timeout 600 rbd rm --no-progress --pool "$2" --image "$nv_image" || nv_die 1 "rbd cannot remove it from pool $2"
            fi
            ;;
    esac
    rm -f "$nv_store/.$3."*
}

nv_store_serve() { # fleet directory|pool name: as nv_serve
    nv_store_at "$1" "$2"
    case $2 in
        /*)
            nv_serve "$nv_store" "$3"
            return
            ;;
    esac
    exec 9>&-
    set -f
    nv_pool=$2 nv_image=$1.$3
    # shellcheck disable=SC2086  # words of ours, without quotes
    set -- ${SSH_ORIGINAL_COMMAND-}
    case ${1-} in
        hello) ;;
        offer) if nv_rbd_has; then echo source; else echo none; fi ;;
        give)
            [ $# -eq 5 ] || nv_die 2 "this key may not do that"
            nv_digits "$3" "$4"
            nv_size=$4
            nv_rbd_has || nv_die 4 "it has nothing of it"
            printf '%-7s\n' plain
            nv_rbd_give "$3"
            ;;
        *) nv_die 2 "this key may not do that" ;;
    esac
}

# --- $nv_image in $nv_pool ---------------------------------------------------------------------------------------

nv_rbd_has() { # dies when that cannot be told
    nv_rc=0
    nv_said=$(timeout 60 rbd info --pool "$nv_pool" --image "$nv_image" 2>&1 >/dev/null) || nv_rc=$?
    case $nv_rc in
        0) return 0 ;;
        2) return 1 ;; # ENOENT
        *) nv_die 1 "cannot read pool $nv_pool: $nv_said" ;;
    esac
}

nv_rbd_sum() { # image
    nv_sum_of rbd export --no-progress --pool "$nv_pool" --image "$1" --path -
}

nv_rbd_give() { # from: the pieces from there on, of $nv_size bytes
    nv_extents=$(rbd diff --pool "$nv_pool" --image "$nv_image" --format json | tr '{' '\n' |
        sed -n 's/.*"offset":\([0-9]*\),"length":\([0-9]*\),"exists":"true".*/\1 \2/p') || nv_die 1 "cannot read pool $nv_pool"
    rbd export --no-progress --pool "$nv_pool" --image "$nv_image" --path - | {
        nv_at=0
        echo "$nv_extents" | nv_clip "$1" | while read -r nv_off nv_len; do
            printf '%-63s\n' "$nv_off $nv_len"
            dd bs=1048576 iflag=fullblock,skip_bytes,count_bytes skip="$((nv_off - nv_at))" count="$nv_len" status=none <&3 ||
                exit 1
            nv_at=$((nv_off + nv_len))
        done
        cat >/dev/null # what is left of it: rbd is to end by itself
    } 3<&0
    printf '%-63s\n' "$nv_size 0"
}
