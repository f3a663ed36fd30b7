/* latency.h - tells LATENCY of the server what it cannot see: the module's work outside of commands. Main thread. */
#pragma once

#include "redis/api.h"
#include "redis/clock.h"

/* Work that began at this time (ns) has ended. The server keeps what is not below latency-monitor-threshold. Where that
 * is 0, Redis keeps everything: so nothing below a millisecond is told. */
static inline void latency_note(const char *event, int64_t begun) {
    int64_t ms = (monotonic_ns() - begun) / 1000000;
    if (ms) RedisModule_LatencyAddSample(event, ms);
}
