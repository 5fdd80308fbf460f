# How many processors and how much memory a running guest has, and giving it others while it runs.

nv_size() { # uuid: of a guest that runs or is paused, what dominfo, vcpucount and dommemstat say; else nothing
    nv_word=$(nv_domain_state "$1") || exit
    case $nv_word in running | paused) nv_virsh "dominfo $1; vcpucount $1; dommemstat $1" ;; esac
}

nv_resize_live() { # uuid setvcpus|setmem number: nothing, or why libvirt does not do it
    nv_rc=0
    nv_out=$(nv_virsh "$2" "$1" "$3" --live 2>&1) || nv_rc=$?
    case $nv_rc in
        0) ;;
        79) nv_die 79 "$nv_out" ;;
        *) printf '%s\n' "$nv_out" ;;
    esac
}
