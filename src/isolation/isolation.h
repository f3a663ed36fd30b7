/* isolation.h - engine processes: models of each device run in a process of its own (ISOLATION process), so that a
 * model cannot end the server. What commands need of it. Main thread only; it never waits, but at load. */
#pragma once

#include "values/backend.h"

/* Starts the first one. Jobs go to engine processes from now on, instead of to engine_start()'s loader. */
int isolation_start(RedisModuleCtx *ctx);

/* Ends the process that runs or compiles what has this id now: a model, a script or a run. What else its device runs is
 * run again on the next. Returns 0 where none does, -1 where a process is about to be ended for another. */
int isolation_kill(uint64_t id);

typedef struct ProcessFigures {
    const char *device, *state; /* down, starting, up */
    const char *last_death;     /* printable; "none" */
    int64_t pid, uptime;        /* s; 0 where it is down, like memory */
    int64_t memory;             /* resident bytes, without what it shares with the server */
    int64_t starts, deaths;
} ProcessFigures;

typedef void (*ProcessReport)(void *data, const ProcessFigures *process);
void isolation_report(ProcessReport report, void *data);
void isolation_add_figures(OnnxFigures *sum);
int64_t isolation_memory(void); /* of all processes */
