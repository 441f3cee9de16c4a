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

# What an audit finds, what it mends, and whether all of it is back.
settings() {
    for file in /proc/irq/default_smp_affinity /proc/irq/*/smp_affinity_list /sys/devices/virtual/workqueue/cpumask \
        /sys/bus/workqueue/devices/writeback/cpumask /proc/sys/kernel/nmi_watchdog /proc/sys/kernel/watchdog_cpumask \
        /proc/sys/kernel/timer_migration /proc/sys/kernel/sched_rt_runtime_us /proc/sys/kernel/numa_balancing \
        /proc/sys/vm/stat_interval /proc/sys/vm/compaction_proactiveness /proc/sys/vm/compact_unevictable_allowed \
        /sys/kernel/debug/sched/fair_server/cpu*/runtime /sys/kernel/mm/transparent_hugepage/enabled \
        /sys/kernel/mm/ksm/run /sys/class/net/*/queues/*/?ps_cpus /sys/devices/system/cpu/cpu*/online \
        /sys/devices/system/clocksource/clocksource0/current_clocksource \
        /sys/devices/system/machinecheck/machinecheck*/check_interval; do
        [ -r "$file" ] && echo "$file $(cat "$file" 2>&1)"
    done
    for task in /proc/[0-9]*; do
        echo "task ${task#/proc/} $(cat $task/comm) $(sed -n 's/^Cpus_allowed_list:\t//p' $task/status)"
    done 2>/dev/null
}
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /var/lib
part check cloister check -c 1 --json /tmp/json
part settings settings
part fix cloister check -c 1 --fix --json /tmp/json
part fixed settings
part undo cloister check --undo
part undone settings

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
    taskset 2 records /tmp/segment 20000 >/tmp/recorded &
    recorder=$!
    until grep -q recorded /tmp/recorded; do sleep 0.1; done
    sleep 0.5
    online 0
    part recorder wait $recorder
    part snapshot cloister snapshot /tmp/segment -o /tmp/trace
    part events sh -c "cloister view /tmp/trace | awk '{ ++cpus[\$3]; ++events[\$5] }
        END { for (n = 1; n <= 20000; ++n) once += events[\"n=\" n] == 1; print once + 0, NR, cpus[0] + 0, cpus[1] + 0 }'"
    online 1
fi
part done true
poweroff -f
