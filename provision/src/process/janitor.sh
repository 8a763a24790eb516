# Stops what its owner leaves behind.
#
# The owner holds the other end of stdin. Over it come `add <pid> <start time> <signal number>`
# for each process group that runs, and `del <pid>` for each that ended. The end of the input
# means that the owner is gone, whatever ended it.

# A shutdown that signals every process must not stop the one that cleans up.
trap '' HUP INT TERM

children=
while read -r verb pid start signal; do
    kept=
    for child in $children; do
        case $child in "$pid":*) ;; *) kept="$kept $child" ;; esac
    done
    children=$kept
    if [ "$verb" = add ]; then children="$children $pid:$start:$signal"; fi
done

# alive <pid> <start time>: the start time tells a process from a later one with the same pid.
alive() {
    [ -r "/proc/$1/stat" ] || return 1
    started=$2
    read -r stat <"/proc/$1/stat" || return 1
    # The name ends at the last ") "; the state follows, and the start time 19 fields later.
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "${20}" = "$started" ]
}

# send [<signal>]: to every group that still runs, by default each its own signal.
send() {
    running=1
    for child in $children; do
        pid=${child%%:*} rest=${child#*:}
        if alive "$pid" "${rest%%:*}"; then
            kill "-${1:-${rest#*:}}" "-$pid"
            running=0
        fi
    done
    return $running
}

send
tenths=0
while [ $tenths -lt 200 ] && send 0; do
    sleep 0.1
    tenths=$((tenths + 1))
done
send KILL
