# Backups of a guest that runs: QEMU copies its disks as they are at one moment while it goes on (libvirt's backup), and
# keeps a bitmap in each disk, under the name of a checkpoint, of what changes from that moment on. Copies are
# <operation>.<file>, as those of a snapshot (snapshot.sh).

nv_backup() { # directory uuid op checkpoint full-xml checkpoint-xml incremental-xml parent-xml freeze(yes|no) bytes file size...:
    # a job. Says "incremental", or "full" and why it is not; what an earlier run of it made is made anew
    exec 9>&- # a takeover must not wait for it: it ends the job
    nv_unback "$1" "$2" "$3" "$4" "$6"
    nv_where=$1 nv_uuid=$2 nv_op=$3 nv_full_xml=$5 nv_checkpoint_xml=$6 nv_part_xml=$7 nv_parent_xml=$8 nv_freeze=$9
    shift 9
    nv_bytes=$1
    shift
    cd "$nv_where"
    umask 077
    nv_choose
    while [ $# -gt 0 ]; do # made here: one that libvirt makes names the guest's disk as its backing file
        nv_image_tool qemu-img create -q -f qcow2 "$nv_op.$1" "$2" >/dev/null || nv_failed "cannot make a copy of $1"
        shift 2
    done
    printf '%s\n' "$nv_xml" >"$nv_op.xml"
    printf '%s\n' "$nv_checkpoint_xml" >"$nv_op.checkpoint.xml"
    nv_virsh domjobinfo "$nv_uuid" --completed >/dev/null 2>&1 || true # how the one before ended is forgotten
    nv_begin_backup
    nv_backup_ended
    rm -f "$nv_op.xml" "$nv_op.checkpoint.xml"
    for nv_file in "$nv_op".*; do sync "$nv_file"; done
    echo "$nv_how"
}

nv_choose() { # nv_xml is what will be copied, nv_how its name; there is room for it
    nv_xml=$nv_full_xml nv_how=full
    if [ -n "$nv_part_xml" ]; then
        # libvirt may have forgotten it (a hard reboot, another host): the bitmaps are what counts, and are looked at
        if nv_out=$(nv_recall "$nv_uuid" "$nv_parent_xml" 2>&1); then
            nv_xml=$nv_part_xml nv_how=incremental
            nv_bytes=$(nv_virsh checkpoint-dumpxml "$nv_uuid" "$(nv_checkpoint_name "$nv_parent_xml")" --no-domain --size |
                sed -n "s/.* size='\([0-9]*\)'.*/\1/p" | awk -v sum="$nv_margin" '{sum += $1} END {printf "%.0f\n", sum}')
        else
            nv_how="full the disks do not tell what changed: $(echo "${nv_out#error: }" | head -n 1)"
            nv_virsh checkpoint-delete "$nv_uuid" "$(nv_checkpoint_name "$nv_parent_xml")" --metadata >/dev/null 2>&1 || true
        fi
    fi
    nv_free=$(nv_space "$nv_where")
    [ "$nv_free" -ge "$nv_bytes" ] ||
        nv_die 28 "no space left on $nv_where: $((nv_free >> 20)) MiB free, the copies may take $((nv_bytes >> 20))"
}

nv_begin_backup() { # the moment of the copies; the guest's file systems are frozen for it if that is wanted
    nv_begin="backup-begin $nv_uuid '$nv_where/$nv_op.xml' '$nv_where/$nv_op.checkpoint.xml' --reuse-external"
    if [ "$nv_freeze" = no ]; then
        nv_out=$(nv_virsh "$nv_begin" 2>&1) || nv_die "$?" "$nv_out"
        return 0
    fi
    nv_frozen "$nv_begin"
    [ -z "$nv_why" ] || nv_die 1 "the guest's file systems were not frozen: $nv_why"
    case $nv_said in *error:*) nv_die 1 "$(echo "$nv_said" | tr '\n' ' ')" ;; esac
}

nv_backup_ended() { # the copies are whole
    while
        nv_out=$(nv_virsh domjobinfo "$nv_uuid" 2>&1) || nv_die "$?" "the backup was cut: $nv_out"
        case $nv_out in *None*) false ;; esac
    do
        nv_progress "$(echo "$nv_out" | awk '/^File (processed|total):/ {print $3, $4}' | paste -s -d , | sed 's/,/ of /')"
        sleep 0.5
    done
    nv_word=$(nv_domain_state "$nv_uuid") || exit
    case $nv_word in running | paused) ;; *) nv_die 1 "the backup was cut: the guest is $nv_word" ;; esac
    nv_out=$(nv_virsh domjobinfo "$nv_uuid" --completed 2>&1) || nv_die "$?" "the backup was cut: $nv_out"
    case $(echo "$nv_out" | tr -s ' \n' ' ') in
        *"Job type: Completed"*"Operation: Backup"*) ;;
        *) nv_failed "the backup failed: $(echo "$nv_out" | sed -n 's/^Error message: *//p')" ;;
    esac
}

nv_recall() { # uuid xml: libvirt knows a checkpoint whose bitmaps are there and whole; else fails, and says why
    echo "$2" | nv_virsh checkpoint-create "$1" /dev/stdin --redefine --redefine-validate
}

nv_checkpoint_name() { # xml
    echo "$1" | sed -n 's/.*<name>\([0-9a-z-]*\)<\/name>.*/\1/p' | head -n 1
}

nv_unback() { # directory uuid op checkpoint xml: no backup goes on, and neither its copies nor its checkpoint are left
    nv_tries=0
    while
        case $(nv_virsh domjobinfo "$2" 2>/dev/null || true) in *Operation:*Backup*) ;; *) false ;; esac
    do
        nv_virsh domjobabort "$2" >/dev/null 2>&1 || true
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -lt 60 ] || nv_die 77 "QEMU does not end the copying"
        sleep 0.5
    done
    nv_drop_files "$1" "$2" "$3"
    nv_forget_checkpoint "$1" "$2" "$4" "$5"
}

nv_checkpoints() { # directory uuid file...: names of checkpoints of ours that libvirt or the disks know. Those of a guest that runs
    # get into its disks when it stops, and what libvirt knows is lost when it is undefined
    {
        nv_virsh checkpoint-list "$2" --name 2>/dev/null || true
        cd "$1"
        shift 2
        for nv_file in "$@"; do
            nv_image_tool qemu-img info -U -f qcow2 --output=json "$nv_file" 2>/dev/null || true
        done | sed -n 's/^ *"name": "\([^"]*\)".*/\1/p'
    } | grep '^novactl-[0-9a-f-]*$' | sort -u || true
}

nv_forget_checkpoint() { # directory uuid checkpoint xml: neither libvirt nor the disks know it; a bitmap that is broken stays
    nv_word=$(nv_domain_state "$2") || exit
    case $nv_word in
        none) ;;
        running | paused)
            if nv_recall "$2" "$4" >/dev/null 2>&1; then
                nv_virsh checkpoint-delete "$2" "$3" >/dev/null || nv_die 1 "cannot delete checkpoint $3"
            else
                nv_virsh checkpoint-delete "$2" "$3" --metadata >/dev/null 2>&1 || true
            fi
            ;;
        *)
            nv_virsh checkpoint-delete "$2" "$3" --metadata >/dev/null 2>&1 || true
            for nv_file in disk disk.local; do
                if [ -e "$1/$nv_file" ]; then
                    nv_image_tool qemu-img bitmap -f qcow2 --remove "$1/$nv_file" "$3" >/dev/null 2>&1 || true
                fi
            done
            ;;
    esac
}

# --- restoring into the instance itself -----------------------------------------------------------------------------

nv_swap_disk() { # directory uuid file base-name bytes op: an overlay of the base takes the file's place, which is kept aside
    nv_need_off "$2"
    if [ ! -e "$1/$3.$6" ]; then
        nv_alone "$1/$3"
        mv -T "$1/$3" "$1/$3.$6"
    fi
    rm -f "$1/$3"
    nv_overlay "$1" "$3" "$4" "$5"
}

nv_unswap_disk() { # directory uuid file op: it has its place again
    [ -e "$1/$3.$4" ] || return 0
    nv_need_off "$2"
    mv -T "$1/$3.$4" "$1/$3"
}

nv_drop_aside() { # directory file op
    rm -f "$1/$2.$3"
}
