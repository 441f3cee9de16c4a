/* Tracepoints in C: an event class, where it happens, and a probe that prints it. */
#include <cloister/trace.h>

#include <stdio.h>

CLOISTER_EVENT(sensor, read, (int32_t, celsius), (const char*, name));

static void print(void* data, const struct cloister_event* event) {
    const char* const payload = event->payload;
    int32_t celsius;
    (void)data;
    memcpy(&celsius, payload, sizeof(celsius));
    printf("%s:%s celsius=%d name=\"%s\"\n", event->event_class->provider, event->event_class->name, (int)celsius,
           payload + sizeof(celsius));
}

static void read_sensor(const char* name, int celsius) { CLOISTER_TRACE(sensor, read, celsius, name); }

int main(void) {
    char error[512];
    read_sensor("not seen", 10); /* off: a NOP */
    if (cloister_trace_add_probe("sensor:*", print, 0, 0) < 0 ||
        cloister_trace_enable("sensor:*", CLOISTER_INFO, "celsius > 20", error, sizeof(error)) < 0) {
        fputs(error, stderr);
        return 1;
    }
    read_sensor("cellar", 12); /* the filter drops it */
    read_sensor("attic", 31);
    return 0;
}
