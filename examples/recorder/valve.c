/* A program in C that records: a controller of a valve, with two channels. What it measures, many times a second, goes
 * into one that keeps the newest; alarms into another, where measurements cannot overwrite them. Each alarm says how the
 * program came there.
 *
 *     valve DIRECTORY           then: cloister view DIRECTORY */
#include <cloister/record.h>
#include <cloister/trace.h>
#include <stdio.h>

CLOISTER_EVENT(valve, measured, (uint32_t, round), (double, bar));
CLOISTER_EVENT_WITH(CLOISTER_WARNING, CLOISTER_CALL_STACK, valve, alarm, (double, bar), (const char*, why));

enum { ROUNDS = 100000 };

static double measure(uint32_t round) {
    const double bar = 1 + round % 1000 / 1000.0;
    CLOISTER_TRACE(valve, measured, round, round == ROUNDS / 100 ? 4.5 : bar);
    return round == ROUNDS / 100 ? 4.5 : bar;
}

static void control(uint32_t round) {
    const double bar = measure(round);
    if (bar > 3) CLOISTER_TRACE(valve, alarm, bar, "pressure too high");
}

int main(int argc, char** argv) {
    char error[1024];
    if (argc != 2) return fputs("usage: valve DIRECTORY\n", stderr), 2;
    static const int warnings = CLOISTER_WARNING;
    const struct cloister_record_events measured = {.glob = "valve:measured"}, grave = {.level = &warnings};
    const struct cloister_record_channel channels[] = {
        {.name = "measured", .sub_buffers = 4, .sub_buffer_bytes = 16 << 10, .events = &measured, .event_count = 1},
        {.name = "alarms", .sub_buffers = 2, .sub_buffer_bytes = 4 << 10, .events = &grave, .event_count = 1}};
    const struct cloister_record_options options = {.size = sizeof options, .channels = channels, .channel_count = 2};
    if (cloister_record_start(&options, error, sizeof error) < 0 ||
        cloister_trace_enable("valve:*", CLOISTER_DEBUG, NULL, error, sizeof error) < 0)
        return fputs(error, stderr), 1;
    for (uint32_t round = 0; round < ROUNDS; ++round) control(round);
    if (cloister_record_snapshot(argv[1], NULL, 0, error, sizeof error) < 0) return fputs(error, stderr), 1;
    const struct cloister_record_lost lost = cloister_record_losses();
    printf("%d measurements, %llu events lost; the alarm among them: cloister view --event valve:alarm %s\n", ROUNDS,
           (unsigned long long)(lost.refused + lost.dropped + lost.unknown), argv[1]);
    cloister_record_stop();
}
