# The survey: all that is on a host, for audit and for a database that was lost. It only looks, on any host. Keys and
# values alternate, each ended by NUL: the names of files may hold anything else.

nv_told() { # key value
    printf '%s\0' "$1" "$2"
}

nv_there() { # path: also a link to nowhere is something
    [ -e "$1" ] || [ -L "$1" ]
}

nv_survey() { # mark instances-path: the mark sets virsh's answers apart, and nobody could have foreseen it
    nv_survey_domains "$1"
    nv_fleet=
    if [ -f "$nv_state/fleet" ]; then read -r nv_fleet <"$nv_state/fleet" || true; fi
    nv_told fleet "$nv_fleet"
    nv_known_mark
    nv_told mark "$nv_mark"
    read -r nv_boot </proc/sys/kernel/random/boot_id
    nv_told boot_id "$nv_boot"
    if [ -f "$2/_base/.storage" ]; then
        nv_known=
        read -r nv_known <"$2/_base/.storage" || true
        nv_told storage "$nv_known"
    fi
    nv_survey_directories "$2"
    for nv_file in "$2"/_base/* "$2"/_base/.[!.]*; do
        if nv_there "$nv_file"; then nv_told base "${nv_file##*/}"; fi
    done
    for nv_file in "$nv_state"/epoch/*; do
        [ -f "$nv_file" ] || continue
        nv_seen=0
        read -r nv_seen <"$nv_file" || true
        nv_told epoch "${nv_file##*/} $nv_seen"
    done
    for nv_file in "$nv_state"/job/*; do
        if [ -d "$nv_file" ]; then nv_survey_job "$nv_file"; fi
    done
    for nv_file in $(nv_trusts); do nv_told trust "$nv_file"; done
}

nv_survey_job() { # directory
    nv_rc=0
    if [ -e "$1/lock" ]; then flock -s -E 100 -n "$1/lock" true 2>/dev/null || nv_rc=$?; fi
    if [ "$nv_rc" -eq 100 ]; then nv_told job "${1##*/} running"; else nv_told job "${1##*/} ended"; fi
}

nv_survey_directories() { # instances-path
    for nv_entry in "$1"/*; do
        if [ "${nv_entry##*/}" = _base ] || ! nv_there "$nv_entry"; then continue; fi
        nv_told directory "${nv_entry##*/}"
        if [ ! -d "$nv_entry" ] || [ -L "$nv_entry" ]; then continue; fi
        if [ -f "$nv_entry/.made-by" ]; then
            nv_made=
            read -r nv_made <"$nv_entry/.made-by" || true
            nv_told made_by "$nv_made"
        fi
        for nv_file in "$nv_entry"/* "$nv_entry"/.[!.]* "$nv_entry"/..?*; do
            if nv_there "$nv_file"; then nv_told file "${nv_file##*/}"; fi
        done
    done
}

nv_survey_domains() { # mark: one virsh for the list, one for each 200 domains
    nv_ask="list --all --autostart --uuid; echo $1; list --inactive --with-managed-save --uuid; echo $1; list --all --uuid"
    nv_all=$(nv_virsh "$nv_ask" 2>&1) ||
        nv_die "$?" "libvirt does not answer: $nv_all"
    # virsh goes on after an error
    case $nv_all in *error:*) nv_die 79 "libvirt does not answer: $nv_all" ;; esac
    nv_told autostart "${nv_all%%"$1"*}"
    nv_all=${nv_all#*"$1"}
    nv_told saved "${nv_all%%"$1"*}"
    nv_batch='' nv_count=0
    for nv_uuid in ${nv_all##*"$1"}; do
        case $nv_uuid in *[!0-9a-f-]*) continue ;; esac
        nv_batch="$nv_batch echo $1$nv_uuid; domstate $nv_uuid; dumpxml --inactive $nv_uuid;" nv_count=$((nv_count + 1))
        if [ "$nv_count" -eq 200 ]; then
            nv_survey_batch "$1" "$nv_batch"
            nv_batch='' nv_count=0
        fi
    done
    if [ -n "$nv_batch" ]; then nv_survey_batch "$1" "$nv_batch"; fi
}

nv_survey_batch() { # mark commands: what they print; the list at the end tells whether libvirt answered to the end
    printf 'domains\0'
    nv_virsh "$2 echo ${1}end; list --all --uuid" 2>/dev/null || nv_die 79 "libvirt does not answer any more"
    printf '\0'
}
