# Jobs: host work that takes longer than a call may. A job is a session of its own, so it survives the link and
# whoever started it; its directory $nv_state/job/<op>.<n>/ holds script, lock, pid, log, progress and, at its end, rc.
# It holds the lock exclusively from before it starts until the last process of it has ended: the starter takes it
# and hands down the open file. All others look through shared locks, and never hold them for longer than that takes.

nv_job= # the directory of the job this shell is, if it is one

nv_job_find() { # op n: nv_dir is the job's directory
    case ${1#op-} in "$1" | '' | *[!0-9a-f]*) nv_die 2 "$1 is not an operation" ;; esac
    case $2 in '' | *[!0-9]*) nv_die 2 "$2 is not the number of a step" ;; esac
    nv_dir=$nv_state/job/$1.$2
}

nv_jobs_alone() { # held while a job is started or its directory goes away
    [ -d "$nv_state/job" ] || mkdir -m 0700 "$nv_state/job" 2>/dev/null || [ -d "$nv_state/job" ]
    exec 5>"$nv_state/job/.lock"
    flock -w 60 5 || nv_die 77 "another command starts a job on this host"
}

nv_job_start() { # op n: stdin is the script, which ends with nv_job_run. Says started, or attached when it was before
    nv_where=$nv_state
    nv_job_find "$1" "$2"
    nv_jobs_alone
    [ -d "$nv_dir" ] || mkdir -m 0700 "$nv_dir" || nv_failed "cannot make the job's directory"
    exec 6>>"$nv_dir/lock"
    # The lock first: a job that ends between two looks has written rc before it let go.
    if ! flock -s -n 6 || [ -e "$nv_dir/rc" ]; then
        echo attached
        return 0
    fi
    # only those who look are left, and each for a moment
    flock -w 10 6 || nv_die 77 "another command looks at this job"
    rm -f "$nv_dir/pid" "$nv_dir/progress"
    cat >"$nv_dir/script" || nv_failed "cannot write the job's script"
    # what is read here ends when the job has a session of its own and closes its end, or died before
    : "$(setsid sh "$nv_dir/script" "$nv_state" "$nv_dir" </dev/null 3>&1 >"$nv_dir/log" 2>&1 5>&- &)"
    echo started
}

nv_job_run() { # function arguments...: the job itself
    nv_since "$$"
    echo "$$ $nv_start" >"$nv_job/pid"
    exec 3>&-
    ( # ended early, it leaves nothing half made: whoever is next may be long in coming
        trap 'rm -f "${nv_raw-}"; exit 143' TERM
        set -e
        "$@"
    )
    nv_rc=$?
    echo "$nv_rc" >"$nv_job/.rc" && sync "$nv_job/.rc" && mv "$nv_job/.rc" "$nv_job/rc" && sync "$nv_job"
}

nv_progress() { # text: how far the job is, in one line; outside a job nobody asks
    [ -n "$nv_job" ] || return 0
    { echo "$1" >"$nv_job/.progress" && mv "$nv_job/.progress" "$nv_job/progress"; } 2>/dev/null || true
}

nv_job_wait() { # op n seconds: "running progress", "ended rc" or "none" on the first line, then the end of its log
    nv_job_find "$1" "$2"
    nv_text='' nv_rc=0
    flock -s -E 100 -w "$3" "$nv_dir/lock" true 2>/dev/null || nv_rc=$?
    if [ "$nv_rc" -eq 100 ]; then
        if [ -e "$nv_dir/progress" ]; then read -r nv_text <"$nv_dir/progress" || true; fi
        echo "running $nv_text"
    elif [ -e "$nv_dir/rc" ]; then
        read -r nv_text <"$nv_dir/rc"
        echo "ended $nv_text"
    else
        echo none
    fi
    tail -c 4096 "$nv_dir/log" 2>/dev/null || true
}

nv_job_remove() { # its directory is gone, and no one started it again meanwhile; fails while it runs
    [ -d "$nv_dir" ] || return 0
    nv_jobs_alone
    if [ -e "$nv_dir/lock" ]; then
        exec 6<"$nv_dir/lock"
        flock -s -n 6 || {
            exec 5>&-
            return 1
        }
    fi
    rm -rf "$nv_dir" || nv_die 1 "cannot remove $nv_dir"
    exec 5>&-
}

nv_job_forget() { # op n: after its end
    nv_job_find "$1" "$2"
    nv_tries=0
    until nv_job_remove; do
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -le 5 ] || nv_die 77 "the job $1.$2 still runs on this host"
        flock -s -w 1 6 || true
    done
}

nv_job_end() { # op n: it has ended, with all that it started, and is forgotten
    nv_job_find "$1" "$2"
    nv_tries=0
    until nv_job_remove; do
        if [ "$nv_tries" -lt 5 ]; then nv_job_signal TERM; else nv_job_signal KILL; fi
        nv_tries=$((nv_tries + 1))
        [ "$nv_tries" -le 20 ] || nv_die 77 "the job $1.$2 cannot be ended on this host"
        flock -s -w 1 6 || true
    done
}

nv_since() { # pid: nv_start is when it was started, in ticks since boot, nv_session its session; empty when it is gone
    nv_start='' nv_session=''
    { read -r nv_line <"/proc/$1/stat"; } 2>/dev/null || return 0
    # shellcheck disable=SC2086  # after the name, which may hold anything, there are only numbers
    set -- ${nv_line##*) }
    nv_session=${4-} nv_start=${20-}
}

nv_job_signal() { # signal: to the job's whole session, since timeout(1) makes process groups of its own
    nv_leader=
    if [ -e "$nv_dir/pid" ]; then read -r nv_leader nv_then <"$nv_dir/pid" || true; fi
    [ -n "$nv_leader" ] || return 0
    # The lock is held, so the host did not boot since: the number is the job's leader, or free, or, once all of its
    # session has gone, somebody else's, who was started later.
    nv_since "$nv_leader"
    if [ -n "$nv_start" ] && [ "$nv_start" != "$nv_then" ]; then return 0; fi
    for nv_process in /proc/[0-9]*; do
        nv_since "${nv_process#/proc/}"
        if [ "$nv_session" = "$nv_leader" ]; then kill -s "$1" "${nv_process#/proc/}" 2>/dev/null || true; fi
    done
}
