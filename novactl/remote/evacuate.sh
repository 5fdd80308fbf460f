# What evacuations ask: which storage the instances are on, and whether anybody has a disk of theirs open.

nv_storage() { # instances-path: the name of the storage behind it, the same on all hosts that share it
    [ -d "$1/_base" ] || return 0
    if [ ! -s "$1/_base/.storage" ]; then
        nv_new=$(cat /proc/sys/kernel/random/uuid)
        echo "$nv_new" >"$1/_base/.storage.$nv_new"
        ln "$1/_base/.storage.$nv_new" "$1/_base/.storage" 2>/dev/null || true # another host was quicker
        rm -f "$1/_base/.storage.$nv_new"
    fi
    cat "$1/_base/.storage"
}

nv_held() { # directory file...: the qcow2 disks of it that a process has open for writing, on whatever host
    cd "$1"
    shift
    for nv_file in "$@" disk.config disk.info user-data.sealed; do nv_alone "$nv_file"; done
    for nv_file in "$@"; do
        nv_out=$(nv_image_tool qemu-img info -f qcow2 "$nv_file" 2>&1) || case $nv_out in
            *"Failed to get"*lock*) echo "$nv_file" ;;
            *) nv_die 1 "cannot look at $nv_file: $nv_out" ;;
        esac
    done
}
