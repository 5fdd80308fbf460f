# Live migration: what both hosts are asked before, the sockets it goes through, and the job on the source that moves
# the guest. QEMU is given no port and no key: libvirt's socket, memory and disks are UNIX sockets in nv_sockets, joined by
# one ssh connection under the operation's key (trust.sh).

nv_sockets() { # op: nv_sockets is the directory of the operation's sockets, the same on both hosts
    case ${1#op-} in "$1" | '' | *[!0-9a-f]*) nv_die 2 "$1 is not an operation" ;; esac
    nv_sockets=/run/novactl-$1
}

nv_qemu_owner() { # "uid:gid" that guests run as
    nv_virsh capabilities | sed -n "s|.*<baselabel type='[a-z]*'>+\([0-9]*\):+\([0-9]*\)</baselabel>.*|\1:\2|p" | head -n 1
}

nv_listen() { # op: target: QEMU may make its sockets here; prints where libvirt's own is
    nv_sockets "$1"
    nv_owner=$(nv_qemu_owner)
    [ -n "$nv_owner" ] || nv_die 1 "libvirt does not say which user its guests run as"
    ( umask 077; mkdir -p "$nv_sockets" )
    chown "$nv_owner" "$nv_sockets"
    for nv_socket in /run/libvirt/libvirt-sock /run/libvirt/virtqemud-sock; do
        if [ -S "$nv_socket" ]; then
            echo "$nv_socket"
            return 0
        fi
    done
    nv_die 1 "libvirt has no socket in /run/libvirt"
}

nv_unlisten() { # op
    nv_sockets "$1"
    rm -rf "$nv_sockets"
}

# --- what preflight asks ----------------------------------------------------------------------------------

nv_live_facts() { # virt-type machine: "libvirt VERSION", "qemu VERSION", and "machine" when guests of that type may have it
    # virsh goes on after an error
    nv_out=$(nv_virsh "version; domcapabilities $(nv_virsh_words --virttype "$1" --machine "$2")" 2>&1) || true
    printf '%s\n' "$nv_out" | sed -n 's/^Using library: libvirt \(.*\)/libvirt \1/p; s/^Running hypervisor: QEMU \(.*\)/qemu \1/p'
    case $nv_out in *"<domainCapabilities>"*) echo machine ;; esac
}

nv_migratable() { # uuid: the running domain as another host would get it
    nv_virsh dumpxml --migratable "$1"
}

nv_compare_cpu() { # virt-type machine: stdin is a guest's <cpu>; nothing, or why no such guest can run here
    nv_file=$(mktemp)
    cat >"$nv_file"
    nv_out=$(nv_virsh hypervisor-cpu-compare --virttype "$1" --machine "$2" --error "$nv_file" 2>&1) && nv_out=
    rm -f "$nv_file"
    echo "$nv_out"
}

nv_disks() { # directory file...: of each qcow2, what qemu-img says in one line of JSON
    nv_where=$1
    shift
    for nv_file in "$@"; do
        nv_out=$(nv_image_tool qemu-img info -U --output=json -f qcow2 "$nv_where/$nv_file") || nv_die 1 "cannot read $nv_file"
        printf '%s' "$nv_out" | tr '\n' ' '
        echo
    done
}

nv_get() { # directory file: its content, nothing when it is not there
    if [ -e "$1/$2" ]; then cat "$1/$2"; fi
}

nv_probe() { # instances-path name write|look|remove: a file that tells whether two hosts share this directory
    case $2 in '' | *[!0-9a-f]*) nv_die 2 "$2 is not the name of a probe" ;; esac
    nv_where=$1
    case $3 in
        write)
            find "$1" -maxdepth 1 -name '.probe-*' -mmin +10 -delete # of somebody who did not live to remove it
            : >"$1/.probe-$2" || nv_failed "cannot write $1"
            ;;
        look)
            touch -c "$1" # a network file system looks again
            [ ! -e "$1/.probe-$2" ] || echo shared
            ;;
        remove) rm -f "$1/.probe-$2" ;;
    esac
}

# --- the guest on either side -------------------------------------------------------------------------------

nv_live_state() { # uuid: libvirt's word for the state and the reason, then "moving" while a migration of it is under way
    nv_rc=0
    nv_out=$(nv_virsh "domstate --reason $1; echo ::; domjobinfo $1" 2>&1) || nv_rc=$?
    case $nv_out in
        *error:*::*)
            if nv_has_domain "$1"; then nv_die 1 "$nv_out"; fi
            echo none
            return 0
            ;;
        *::*) ;;
        *) nv_die "$nv_rc" "$nv_out" ;;
    esac
    printf '%s\n' "${nv_out%%
*}"
    case ${nv_out#*::} in *Operation:*migration*) echo moving ;; esac
}

nv_live_abort() { # uuid: no migration of it is under way any more, whoever began it; nv_word is its state and the reason
    nv_tries=0
    while :; do
        nv_word=$(nv_live_state "$1") || exit
        case $nv_word in
            *moving) ;;
            *) return 0 ;;
        esac
        nv_virsh domjobabort "$1" >/dev/null 2>&1 || true
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -le 60 ] || nv_die 1 "libvirt does not end the migration of the guest"
        sleep 0.5
    done
}

nv_drop_arrival() { # uuid nvram operation: target: what the operation brought here is gone; a guest of any other stays
    if ! nv_has_domain "$1"; then
        rm -f "$2"
        return 0
    fi
    for nv_which in --config --live; do
        nv_made=$(nv_virsh metadata "$1" https://novactl.org/xmlns/1 "$nv_which" 2>&1) || nv_made=
        case $nv_made in *"operation=\"$3\""*) break ;; esac
        nv_made=
    done
    [ -n "$nv_made" ] || nv_die 76 "the guest here was not brought by $3"
    # one that is not persistent ends with its guest
    nv_out=$(nv_virsh "destroy $1; undefine $1 --nvram; list --all --uuid" 2>&1) || nv_die "$?" "$nv_out"
    if nv_has_line "$nv_out" "$1"; then nv_die 1 "$nv_out"; fi
    rm -f "$2"
}

nv_forget_move() { # directory: source: the XML that the guest would have gone with
    rm -f "$1/migrate.xml" "$1/migrate-persistent.xml"
}

nv_leave_source() { # directory uuid nvram shared(yes|no): source: what is left of a guest that has gone; never one that runs
    nv_word=none
    if nv_has_domain "$2"; then nv_word=$(nv_domain_state "$2") || exit; fi
    case $nv_word in
        none) ;;
        "shut off" | crashed) nv_remove_domain "$2" ;;
        *) nv_die 1 "its guest is $nv_word here" ;;
    esac
    rm -f "$3" # virsh migrate --undefinesource leaves it
    [ "$4" = yes ] || nv_remove_directory "$1"
}

# --- the job ------------------------------------------------------------------------------------------------

nv_live() { # directory uuid op socket running|paused milliseconds virsh-words...: source: the guest is on the target, as it
    # was here. The target's guest stands still until this one is gone for sure, and only then goes on. 0 milliseconds: as long
    # a downtime as libvirt allows by itself
    exec 9>&- # nobody who takes over waits for it: the job itself is what goes on
    nv_uuid=$2 nv_op=$3 nv_far=$4 nv_was=$5 nv_downtime=$6
    nv_files=$1
    shift 6
    nv_limit=604800
    nv_sockets "$nv_op"
    nv_tunnel='' nv_watcher='' nv_standing=''
    trap 'trap "" TERM; nv_live_end; nv_live_abort "$nv_uuid"; exit 143' TERM
    trap nv_live_end EXIT
    nv_live_connect
    nv_live_abort "$nv_uuid" # while the tunnel is made
    nv_owner=$(nv_qemu_owner)
    nv_live_connected
    nv_out=
    case $nv_word in
        running* | paused*)
            if [ "$nv_downtime" -gt 0 ]; then nv_virsh migrate-setmaxdowntime "$nv_uuid" "$nv_downtime" >/dev/null; fi
            nv_live_stand_by
            nv_live_watch 4>&- 5>&- 6>&- & # what it sleeps in does not keep the job's lock
            nv_watcher=$!
            # the guest may stand still when it ends: the same virsh says which domains are left
            nv_out=$(nv_virsh "migrate $(nv_virsh_words "$nv_uuid" "$@"); echo ::; list --all --uuid; echo ::" 2>&1) || true
            ;;
    esac
    nv_live_arrive
    nv_forget_move "$nv_files"
}

nv_virsh_words() { # word...: as a virsh that is given several commands in one text reads them
    for nv_word in "$@"; do
        printf "'%s' " "$(printf '%s' "$nv_word" | sed "s/'/'\\\\''/g")"
    done
}

nv_live_end() { # no tunnel, no watcher and no virsh is left
    trap - EXIT
    for nv_pid in $nv_watcher $nv_standing $nv_tunnel; do kill "$nv_pid" 2>/dev/null || true; done
    rm -rf "$nv_sockets"
}

nv_live_connect() { # the three sockets here are to lead to those of the target
    rm -rf "$nv_sockets"
    mkdir -m 0711 "$nv_sockets"
    nv_trust_become "$nv_op" -N -o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes \
        -L "$nv_sockets/libvirt:$nv_far" -L "$nv_sockets/memory:$nv_sockets/memory" \
        -L "$nv_sockets/disks:$nv_sockets/disks" target </dev/null >"$nv_sockets/said" 2>&1 &
    nv_tunnel=$!
}

nv_live_connected() { # they do, and QEMU may use them
    nv_tries=0
    until [ -S "$nv_sockets/disks" ]; do
        if ! kill -0 "$nv_tunnel" 2>/dev/null; then nv_die 1 "no connection to the target: $(cat "$nv_sockets/said")"; fi
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -le 1500 ] || nv_die 1 "no connection to the target in time"
        sleep 0.01
    done
    chown "$nv_owner" "$nv_sockets/memory" "$nv_sockets/disks"
}

nv_live_far() { # virsh on the target
    timeout -k 5 60 virsh -q -c "qemu+unix:///system?socket=$nv_sockets/libvirt" "$@"
}

nv_live_stand_by() { # a virsh is connected to the target and waits for what nv_live_tell says: to connect takes longer than that.
    # It ends when this shell has ended
    mkfifo -m 0600 "$nv_sockets/ask" "$nv_sockets/told"
    exec 4<>"$nv_sockets/ask"
    virsh -q -c "qemu+unix:///system?socket=$nv_sockets/libvirt" <"$nv_sockets/ask" >"$nv_sockets/told" 2>&1 4>&- &
    nv_standing=$!
    exec 5<"$nv_sockets/told"
}

nv_live_tell() { # virsh-command...: the state of the guest on the target after them; fails when that virsh is not sure of it
    [ -n "$nv_standing" ] || return 1
    printf '%s\n' "$@" "domstate $nv_uuid" quit >&4
    nv_rc=0
    nv_word=$(timeout -k 5 30 cat <&5) || nv_rc=$?
    case $nv_rc,$nv_word in
        0,*error:*) return 1 ;;
        0,*"
running
"*) nv_word=running ;;
        0,*"
paused
"*) nv_word=paused ;;
        *) return 1 ;;
    esac
}

nv_live_watch() { # how far it is, as progress: as often as anybody asks the job, since libvirt and QEMU have to answer
    while sleep 2; do
        nv_progress "$(nv_virsh domjobinfo "$nv_uuid" 2>/dev/null | awk '
            $1 " " $2 == "Data remaining:" {left = $3 " " $4 " remaining"}
            $1 " " $2 == "Memory bandwidth:" {rate = ", " $3 " " $4}
            $1 " " $2 == "Expected downtime:" {down = ", " $3 " ms downtime"}
            END {if (left) print left rate down}')"
    done
}

nv_live_arrive() { # decided by where the guest is, not by what virsh said
    case $nv_out in
        *error:* | *::*"$nv_uuid"*) nv_word= ;;
        *::*::*) nv_word=none ;;
        *) nv_word= ;;
    esac
    [ -n "$nv_word" ] || nv_word=$(nv_domain_state "$nv_uuid") || exit
    case $nv_word in
        none | "shut off" | crashed) ;;
        *) nv_die 1 "the guest stays here: ${nv_out%%
::*}" ;;
    esac
    # resume fails, and does no harm, unless it is paused
    nv_ask=
    if [ "$nv_was" = running ]; then nv_ask="resume $nv_uuid"; fi
    nv_live_tell "$nv_ask" ||
        nv_word=$(nv_live_far "${nv_ask:+$nv_ask; }domstate $nv_uuid" 2>&1) ||
        nv_die 1 "the target does not say how its guest is: $nv_word"
    case ${nv_word##*
},$nv_was in
        running,* | paused,paused) ;;
        *) nv_die 1 "its guest is $nv_word on the target" ;;
    esac
}
