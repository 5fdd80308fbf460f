# A guest's memory on disk (libvirt's managed save), and the bridges a guest is plugged into.

nv_room_to_save() { # where libvirt saves: free bytes there
    nv_where=$1
    while [ ! -d "$nv_where" ]; do nv_where=$(dirname "$nv_where"); done
    nv_space "$nv_where"
}

nv_qemu_version() { # of the QEMU that libvirt starts guests with
    nv_virsh version | sed -n 's/^Running hypervisor: QEMU \([0-9.]*\).*/\1/p'
}

nv_qemu_versions() { # directory: of the QEMU that saved the guest's memory, if that is known; then of the one here
    echo "saved $(cat "$1/saved-by" 2>/dev/null || true)"
    echo "now $(nv_qemu_version)"
}

nv_is_saved() { # uuid
    nv_word=$(nv_domain_state "$1") || exit
    nv_has_line "$nv_word" saved
}

nv_cut_save() { # file: libvirt marks what it has not written to the end; a start would drop it and boot from the disk
    [ -e "$1" ] && [ "$(head -c 16 "$1" | tr -d '\0')" = LibvirtQemudPart ]
}

nv_save() { # directory uuid bytes file: its memory is on disk and the guest off; a job
    nv_limit=86400 nv_where=${4%/*}
    if nv_is_saved "$2"; then
        if nv_cut_save "$4"; then nv_die 1 "its save was cut, its memory is lost"; fi
        return 0
    fi
    nv_room=$(nv_room_to_save "$nv_where")
    if [ "$nv_room" -lt "$3" ]; then
        nv_die 28 "no space left in $nv_where: $((nv_room >> 20)) MiB free, its memory may take $(($3 >> 20))"
    fi
    nv_qemu_version >"$1/.saved-by.new" || nv_die 1 "cannot keep QEMU's version"
    sync "$1/.saved-by.new"
    mv "$1/.saved-by.new" "$1/saved-by"
    nv_progress "saving its memory"
    nv_out=$(nv_virsh managedsave "$2" 2>&1) || nv_die "$?" "$nv_out"
}

nv_unsave() { # directory uuid file: the guest runs on, whatever became of saving it; one that went off by itself stays off. A job
    nv_limit=86400 nv_tries=0 nv_failures=0
    while [ "$nv_tries" -lt 240 ]; do
        # a save goes on in libvirtd without whoever asked for it; other jobs are not ours
        case $(nv_virsh domjobinfo "$2" 2>/dev/null || true) in
            *Operation:*Save*) nv_virsh domjobabort "$2" >/dev/null 2>&1 || true ;;
        esac
        nv_word=$(nv_domain_state "$2") || exit
        case $nv_word in
            running)
                rm -f "$1/saved-by"
                return 0
                ;;
            *saved)
                if nv_cut_save "$3"; then # a start from the disk is nothing that anybody asked for
                    nv_virsh managedsave-remove "$2" >/dev/null || nv_die 1 "cannot remove its cut save"
                    continue
                fi
                nv_out=$(nv_virsh start "$2" 2>&1) || nv_failures=$((nv_failures + 1))
                [ "$nv_failures" -lt 3 ] || nv_die 1 "$nv_out"
                ;;
            paused) nv_virsh resume "$2" >/dev/null 2>&1 || true ;;
            "shut off" | crashed | none)
                rm -f "$1/saved-by"
                return 0
                ;;
        esac
        nv_tries=$((nv_tries + 1))
        sleep 0.5
    done
    nv_die 1 "the guest does not run on: it is $nv_word"
}

nv_restore() { # directory uuid file: it runs on from its saved memory, never from its disk; a job
    nv_limit=86400
    nv_word=$(nv_domain_state "$2") || exit
    case $nv_word in
        running) ;;
        *saved) if nv_cut_save "$3"; then nv_die 1 "its save was cut, its memory is lost"; fi ;;
        *) nv_die 1 "its saved memory is gone" ;;
    esac
    nv_progress "restoring its memory"
    nv_start "$2"
    rm -f "$1/saved-by"
}

# --- bridges: what a host has, it keeps; what is gone is made again ---------------------------------------

nv_ensure_bridges() { # bridge ports...: pairs. Each is there and up; "made bridge port..." for one that was not
    while [ $# -gt 0 ]; do
        nv_ensure_bridge "$1" "$2"
        shift 2
    done
}

nv_ensure_bridge() { # bridge ports(separated by commas): one that is there is left as it is; so are ports that
    # have a master, or an address: the host may be reached by it
    nv_flags=0
    if [ -d "/sys/class/net/$1/bridge" ]; then read -r nv_flags <"/sys/class/net/$1/flags"; fi
    if [ $((nv_flags & 1)) -eq 1 ]; then return 0; fi
    # another command may make it, too
    nv_out=$(ip link add name "$1" type bridge 2>&1) || [ -d "/sys/class/net/$1/bridge" ] ||
        nv_die 1 "cannot make bridge $1: $nv_out"
    nv_ports='' nv_rest=$2,
    while [ -n "$nv_rest" ]; do
        nv_port=${nv_rest%%,*} nv_rest=${nv_rest#*,}
        if [ -n "$nv_port" ] && [ -e "/sys/class/net/$nv_port" ] && [ ! -e "/sys/class/net/$nv_port/master" ] &&
            [ -z "$(ip -o addr show dev "$nv_port" scope global)" ]; then
            ip link set dev "$nv_port" master "$1" up
            nv_ports="$nv_ports $nv_port"
        fi
    done
    # last: one that is down was made in part
    ip link set dev "$1" up
    echo "made $1$nv_ports"
}
