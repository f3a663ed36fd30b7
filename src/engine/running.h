/* running.h - what the loader and each worker do now, for INFO, the log and crash reports.
 *
 * Each of these threads writes a record of its own, without locks. Any thread may read all of them, also in a crash. A
 * value is named by the key it was stored or loaded under: RENAME and COPY do not change that. */
#pragma once

#include "values/runnable.h"

#define FUNCTION_SIZE 48
#define THREAD_SIZE 48

/* What a thread does. It alone writes it; all is atomic and relaxed but `version`, which is odd during a change. */
typedef struct RunningRecord {
    uint64_t version;
    uint64_t id; /* of the runnable; 0: none yet */
    int64_t since;
    int64_t logged; /* main thread: the latest `since` that was logged */
    char label[RUNNABLE_LABEL];
    char function[FUNCTION_SIZE]; /* empty: none */
    char thread[THREAD_SIZE];
    struct RunningRecord *next;
} RunningRecord;

/* Threads that register from now on get their records here, as far as there are any: in memory that another process
 * watches. Before any thread has registered. */
void running_set_place(RunningRecord *records, int count);

/* Reports and logs cover these records of another process, too. It is not trusted. device and records stay valid. One
 * thread at a time. */
void running_watch(const char *device, const RunningRecord *theirs, int count);

/* This thread has a record from now on. thread is copied. */
void running_register(const char *thread);

/* It begins with this runnable at this time (ns). function: of a script; NULL for models and the loader. */
void running_begin(const Runnable *runnable, const char *function, int64_t now);

/* It goes on with the next op of the same at this time; 0: it does nothing. */
void running_since(int64_t now);

/* Calls report for each thread that does something. what: `model=<key>,tag=<tag>` or `script=…,tag=…,function=…`. */
typedef void (*RunningReport)(void *data, const char *thread, const char *what, int64_t ns);
void running_report(RunningReport report, void *data);

/* The runnable with which this thread is busy; 0: none. Also in a signal handler. */
uint64_t running_id(void);

/* Logs what has been going on for more than a second, once each. Main thread, when a client has waited too long. */
void running_log(void);
