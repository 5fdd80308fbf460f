# What all guests of a host do, in one look: for `list --refresh`, which asks every host. A process costs more than
# what it does here: there are three of them.

nv_states() { # mark instances-path: the host's figures, then two lists of virsh's with the mark between them
    nv_all=$(nv_virsh "list --all --uuid --name; echo $1; list --all --managed-save" 2>&1) ||
        nv_die "$?" "libvirt does not answer: $nv_all"
    # virsh goes on after an error; a guest's name may hold the word, but does not begin a line
    case "
$nv_all" in *"
error:"*) nv_die 79 "libvirt does not answer: $nv_all" ;; esac
    nv_copy_version
    read -r nv_boot </proc/sys/kernel/random/boot_id
    echo "boot_id $nv_boot"
    echo "disk_free $(stat -f -c '%a %S' "$2")"
    echo "mark $nv_mark"
    echo "copy $nv_version"
    while read -r nv_key nv_value _; do
        if [ "$nv_key" = MemAvailable: ]; then
            echo "available_kib $nv_value"
            break
        fi
    done </proc/meminfo
    printf 'domains\n%s\n' "$nv_all"
}
