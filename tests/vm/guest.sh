#!/bin/sh
# The init of the virtual machine: runs what the tests look at, one part after the other, and writes each to the second
# serial port as
#
#   @@ part NAME STATUS
#   what it printed
#   @@ json
#   what cloister wrote to /tmp/json, without the single breaches: the rows say the same, and a serial port is slow
#   @@ stderr
#   what it complained about
#   @@ end
#
# `offline=yes` on the kernel's command line: take CPU 1 away, too.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
stty -F /dev/ttyS1 raw -echo
echo 0 >/proc/sys/kernel/printk

part() {
    name=$1
    shift
    rm -f /tmp/json
    "$@" >/tmp/out 2>/tmp/err
    status=$?
    {
        echo "@@ part $name $status"
        cat /tmp/out
        echo "@@ json"
        grep -v '^{"type": *"breach"' /tmp/json
        echo "@@ stderr"
        cat /tmp/err
        echo "@@ end"
    } >/dev/ttyS1 2>&1
}

online() { echo "$1" >/sys/devices/system/cpu/cpu1/online; }

# Takes CPU 1 away a second after the watch has begun: the header is there then.
away_soon() {
    rm -f /tmp/json
    (
        until grep -q '"type": *"header"' /tmp/json 2>/dev/null; do sleep 0.1; done
        sleep 1
        online 0
    ) &
    away=$!
}

part isolated cat /sys/devices/system/cpu/isolated
part known cloister run --json /tmp/json -- actor known --syscalls 40 --touch 30 --shootdowns 20
part mounts cat /proc/mounts
mount -t tracefs tracefs /sys/kernel/tracing
part before grep LOC: /proc/interrupts
part ticks cloister run --json /tmp/json -- sh -c 'grep LOC: /proc/interrupts; actor spin 2; grep LOC: /proc/interrupts'
part after grep LOC: /proc/interrupts
part quiet cloister run --after 500ms -d 2s --json /tmp/json -- actor spin 3

part watch cloister watch -c 1 -d 1s --gap 20us --json /tmp/json

if [ "$offline" = yes ]; then
    # The program goes on where the kernel puts it, until cloister has noticed.
    away_soon
    part run_away cloister run --json /tmp/json -- sh -c \
        'for i in $(seq 60); do grep -q "taken offline" /tmp/err && exit 7; actor spin 0.5; done; exit 8'
    wait $away
    online 1
    away_soon
    part watch_away cloister watch -c 1 -d 60s --gap 20us --json /tmp/json
    wait $away
    online 1

    taskset 2 actor spin 120 &
    spinner=$!
    away_soon
    part pid_away cloister watch --pid $spinner -c 1 -d 60s --json /tmp/json
    kill $spinner
    wait $away

    part run_chosen cloister run -c 1 -- actor spin 0
    part watch_chosen cloister watch -c 1 -d 1s
    part none_to_spare cloister run -- actor spin 0
    online 1
    part again cloister run --json /tmp/json -- actor syscalls 25

    # A program that records on CPU 1 goes on elsewhere when that goes: each event is there once, in one lane or the other.
    taskset 2 records /tmp/segment 10000 >/tmp/recorded &
    recorder=$!
    until grep -q recorded /tmp/recorded; do sleep 0.1; done
    sleep 0.5
    online 0
    part recorder wait $recorder
    part snapshot cloister snapshot /tmp/segment -o /tmp/trace
    part events sh -c "cloister view /tmp/trace | awk '{ ++cpus[\$3]; ++events[\$5] }
        END { for (n = 1; n <= 10000; ++n) once += events[\"n=\" n] == 1; print once + 0, NR, cpus[0] + 0, cpus[1] + 0 }'"
    online 1
fi
part done true
poweroff -f
