# Files that an operation made of an instance: their way to the operator.

nv_file_sum() { # directory file: its SHA-256 and its length; a job
    cd "$1"
    nv_progress "hashing $2"
    nv_sum=$(nv_digest sha256 "$2")
    [ -n "$nv_sum" ] || nv_die 1 "cannot read $2"
    echo "$nv_sum $(stat -c %s "$2")"
}

nv_file_send() { # directory file from: its length in 64 bytes, then the pieces that hold data (nv_send_pieces)
    cd "$1"
    nv_size=$(stat -c %s "$2")
    printf '%-63s\n' "$nv_size"
    nv_send_pieces "$2" "$3"
}

# Live: QEMU mirrors each disk into an overlay of the same base; once all of them are there the guest's file systems are
# frozen, the mirrors ended and the file systems thawed. What is made is <operation>.<file>... in the instance's directory.

nv_agent() { # uuid: nothing when the guest's agent answers, else why it does not
    nv_out=$(timeout 10 virsh -q -c qemu:///system qemu-agent-command "$1" '{"execute":"guest-ping"}' --timeout 3 2>&1) && return 0
    nv_out=${nv_out#error: }
    echo "${nv_out:-it does not answer in time}"
}

nv_snapshot_look() { # directory uuid running|paused|off file...: what there is to copy, and what it will take
    nv_where=$1 nv_uuid=$2
    echo "room $(nv_space "$1")"
    if [ "$3" = running ]; then echo "silent $(nv_agent "$2" | tr '\n' ' ')"; fi
    if [ "$3" != off ]; then nv_virsh domblklist "$2" | while read -r _ nv_file; do echo "source $nv_file"; done; fi
    shift 3
    for nv_file in "$@"; do
        nv_overlay_of "$nv_file"
        nv_bytes=0
        if [ -n "$nv_base" ]; then nv_bytes=$(cd "$nv_where" && stat -c '%b %B' "$nv_base" | (read -r nv_a nv_b && echo $((nv_a * nv_b)))); fi
        echo "base $nv_file $nv_bytes"
        echo "disk $nv_file $nv_out"
    done
}

nv_overlay_of() { # file: what qemu-img says of it, its size for the guest and its base, which is one of ours: a disk came from
    # another host, perhaps, and whatever file its header names would be read by root here
    nv_out=$(nv_disks "$nv_where" "$1") || exit
    nv_size=$(printf '%s\n' "$nv_out" | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p')
    nv_base=$(printf '%s\n' "$nv_out" | sed -n 's/.*"backing-filename": "\([^"]*\)".*/\1/p')
    [ -n "$nv_size" ] || nv_die 1 "qemu-img does not tell the size of $1"
    case $nv_out in *'"data-file"'*) nv_die 76 "$1 has its data in another file" ;; esac
    case $nv_out in *'"backing-filename"'*) ;; *) return 0 ;; esac
    case $nv_base in
        ../_base/*[!0-9a-z_]*) nv_die 76 "$1 names a base file that is not ours" ;;
        ../_base/?*) ;;
        *) nv_die 76 "$1 names a base file that is not ours" ;;
    esac
    case $nv_out in *'"backing-filename-format": "raw"'*) ;; *) nv_die 76 "$1 does not say that its base file is raw" ;; esac
}

nv_copy_live() { # directory uuid op must|may|not(freeze) file...: each file has a copy of one moment, <op>.<file>.delta.
    # "copied frozen-for-milliseconds", "copied - why it was not frozen", or "cannot" and why; a job
    exec 9>&-
    nv_where=$1 nv_uuid=$2 nv_op=$3 nv_freeze=$4
    cd "$1"
    umask 077
    if [ -e "$3.copied" ]; then
        cat "$3.copied"
        return 0
    fi
    nv_drop_files "$1" "$2" "$3"
    shift 4
    nv_progress "copying its disks"
    for nv_file in "$@"; do
        nv_make_delta "$nv_file"
        nv_out=$(nv_virsh blockcopy "$nv_uuid" "$nv_where/$nv_file" --dest "$nv_where/$nv_op.$nv_file.delta" \
            --format qcow2 --shallow --reuse-external --transient-job 2>&1) && continue
        nv_rc=$?
        nv_out=$(echo "$nv_out" | tr '\n' ' ')
        [ "$nv_rc" -ne 79 ] || nv_die 79 "$nv_out"
        nv_drop_files "$nv_where" "$nv_uuid" "$nv_op"
        if [ "$nv_freeze" = must ]; then nv_die 1 "cannot copy $nv_file while the guest runs: $nv_out"; fi
        echo "cannot ${nv_out#error: }"
        return 0
    done
    nv_mirrored "$@"
    nv_cut "$@"
}

nv_make_delta() { # file
    nv_overlay_of "$1"
    nv_file=$1
    set --
    if [ -n "$nv_base" ]; then set -- -F raw -b "$nv_base"; fi
    nv_image_tool qemu-img create -q -f qcow2 "$@" "$nv_op.$nv_file.delta" "$nv_size" >/dev/null ||
        nv_failed "cannot make a copy of $nv_file"
}

nv_mirror_of() { # file: nv_mirror is how libvirt describes its mirror into our copy, empty when there is none
    nv_mirror=$(echo "$nv_xml" | grep -F "<mirror " | grep -F "='$nv_where/$nv_op.$1.delta'") || true
}

nv_mirrored() { # file...: all of them are there and followed
    nv_tries=0
    while :; do
        nv_xml=$(nv_virsh dumpxml "$nv_uuid" 2>&1) || nv_die "$?" "$nv_xml"
        nv_late=
        for nv_file in "$@"; do
            nv_mirror_of "$nv_file"
            case $nv_mirror in
                *" ready='yes'"*) ;;
                '') nv_failed "QEMU gave up copying $nv_file" ;;
                *) nv_late=1 ;;
            esac
        done
        [ -n "$nv_late" ] || return 0
        nv_tries=$((nv_tries + 1))
        if [ "$nv_tries" -lt 20 ]; then sleep 0.1; else sleep 0.5; fi
    done
}

nv_cut() { # file...: the copies stand as they are now
    nv_ends=
    for nv_file in "$@"; do nv_ends="$nv_ends blockjob $nv_uuid $nv_where/$nv_file --abort;"; done
    nv_ms=- nv_rc=0 nv_why=
    if [ "$nv_freeze" = not ]; then
        nv_said=$(nv_virsh "$nv_ends" 2>&1) || nv_rc=$?
        [ "$nv_rc" -ne 79 ] || nv_die 79 "libvirt does not end the copying"
    else
        nv_frozen "${nv_ends%;}"
    fi
    case $nv_said in *error:*) nv_failed "cannot end the copying: $(echo "$nv_said" | tr '\n' ' ')" ;; esac
    if [ "$nv_freeze,$nv_ms" = must,- ]; then nv_die 1 "the guest's file systems were not frozen: $nv_why"; fi
    printf '%s\n' "copied $nv_ms ${nv_why#error: }" >"$nv_op.copied.new" || nv_failed "cannot write in the instance's directory"
    sync "$nv_op.copied.new"
    mv "$nv_op.copied.new" "$nv_op.copied"
    cat "$nv_op.copied"
}

nv_frozen() { # virsh-commands: carried out while the guest's file systems are frozen; nv_said is what they said, nv_ms for how
    # long, "-" when they were not: nv_why. Dies with 79 when nobody knows what of it was done
    nv_ms=- nv_rc=0 nv_sep="error: ::" # as virsh tells an error that is "::"
    nv_watch
    trap nv_thaw EXIT
    nv_began=$(date +%s%N)
    nv_said=$(nv_virsh "domfsfreeze $nv_uuid; echo --err ::; $1; echo --err ::; domfsthaw $nv_uuid" 2>&1) || nv_rc=$?
    nv_ended=$(date +%s%N)
    case $nv_rc,$nv_said in
        79,*) nv_die 79 "libvirt did not answer while the guest's file systems were frozen" ;;
        *"$nv_sep"*"$nv_sep"*) ;;
        *) nv_die 79 "libvirt did not answer: $nv_said" ;;
    esac
    nv_why=$(printf '%s' "${nv_said%%"$nv_sep"*}" | tr '\n' ' ' | tr -cd '[:print:]') # a guest's words
    nv_why=${nv_why% }
    if [ -z "$nv_why" ] && [ ! -e "$nv_op.frozen" ]; then nv_why="it was thawed before its copies stood"; fi
    case ${nv_said##*"$nv_sep"} in *error:*) nv_not_asked || nv_thaw ;; *) rm -f "$nv_op.frozen" ;; esac
    [ -n "$nv_why" ] || nv_ms=$(((nv_ended - nv_began) / 1000000))
    trap - EXIT
    nv_said=${nv_said#*"$nv_sep"} nv_said=${nv_said%%"$nv_sep"*}
}

nv_not_asked() { # libvirt says that no agent was told to freeze: nothing is frozen. Whatever else it says, the guest may be
    case $nv_why in
        *"agent is not connected"* | *"agent is not configured"* | *"agent is not available due to an error"*) ;;
        *"agent not available for now"* | *"respond to synchronization"*) ;;
        *) return 1 ;;
    esac
    rm -f "$nv_op.frozen"
}

nv_thaw() { # what is frozen is thawed. While that fails, nv_watch tries on: a freeze that somebody cut still goes on in libvirt
    [ -e "$nv_where/$nv_op.frozen" ] || return 0
    if ! nv_virsh domfsthaw "$nv_uuid" >/dev/null 2>&1; then
        case $(nv_domain_state "$nv_uuid") in none | "shut off" | crashed) ;; *) return 0 ;; esac
    fi
    rm -f "$nv_where/$nv_op.frozen"
}

nv_watch() { # another process thaws the guest when this one is killed, or takes longer than 10 s; nobody ends it with a job.
    # The sign of a guest that does not let itself be thawed stays: nv_drop_files begins anew
    : >"$nv_where/$nv_op.frozen" || nv_failed "cannot write in the instance's directory"
    # shellcheck disable=SC2016  # its own arguments
    setsid sh -c '
        n=0
        while [ -e "$1" ] && [ "$n" -lt 50 ] && kill -0 "$2" 2>/dev/null; do sleep 0.2; n=$((n + 1)); done
        n=0
        while [ -e "$1" ] && [ "$n" -lt 60 ]; do
            if timeout 30 virsh -q -c qemu:///system domfsthaw "$3"; then rm -f "$1"; fi
            sleep 1
            n=$((n + 1))
        done' watch "$nv_where/$nv_op.frozen" "$$" "$nv_uuid" </dev/null >/dev/null 2>&1 3>&- 5>&- 6>&- 7>&- 9>&- &
}

nv_extract() { # directory op file from raw|qcow2 yes|no(compressed): <op>.<file> is all of that disk by itself; a job
    exec 9>&-
    nv_where=$1 nv_made=$2.$3
    cd "$1"
    umask 077
    if [ ! -e "$nv_made" ]; then
        nv_raw=$1/$nv_made.new
        nv_progress "converting $3"
        nv_from=$4 nv_format=$5
        nv_overlay_of "$nv_from"
        if [ "$6" = yes ]; then set -- -q -c; else set -- -q; fi
        nv_image_tool qemu-img convert "$@" -f qcow2 -O "$nv_format" "$nv_from" "$nv_raw" || {
            nv_full=$nv_raw
            nv_failed "qemu-img cannot convert $nv_from"
        }
        sync "$nv_raw"
        mv "$nv_raw" "$nv_made"
    fi
    rm -f "$nv_made.delta"
}

nv_drop_files() { # directory uuid op: nothing of what the operation made there is left, nor does QEMU write to it;
    # but for the sign of a guest that does not let itself be thawed, which who watches it removes when it does
    nv_where=$1 nv_uuid=$2 nv_op=$3 nv_tries=0
    nv_thaw
    if [ -e "$1/$3.frozen" ]; then nv_watch; fi # who watched may be gone
    set -- "$1/$3".*
    [ -e "$1" ] || return 0
    while
        nv_rc=0
        nv_xml=$(nv_virsh dumpxml "$nv_uuid" 2>&1) || nv_rc=$?
        if [ "$nv_rc" -ne 0 ]; then # no such domain, perhaps
            if nv_has_domain "$nv_uuid"; then nv_die "$nv_rc" "$nv_xml"; fi
            nv_xml=
        fi
        nv_late=
        for nv_file in "$@"; do
            nv_file=${nv_file##*/"$nv_op".}
            nv_mirror_of "${nv_file%.delta}"
            if [ -n "$nv_mirror" ]; then
                nv_late=1
                nv_virsh blockjob "$nv_uuid" "$nv_where/${nv_file%.delta}" --abort >/dev/null 2>&1 || true
            fi
        done
        [ -n "$nv_late" ]
    do
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -le 60 ] || nv_die 77 "QEMU does not end the copying"
        sleep 0.5
    done
    for nv_file in "$@"; do
        case $nv_file in *.frozen) ;; *) rm -f "$nv_file" ;; esac
    done
    # a guest that could not write while our files filled the disk stands still until somebody says so
    case $(nv_virsh domstate --reason "$nv_uuid" 2>/dev/null || true) in
        "paused (I/O error)") nv_unpause "$nv_uuid" ;;
    esac
}
