/* running.h - what the loader and each worker do now, for INFO, the log and crash reports.
 *
 * Each of these threads writes a record of its own, without locks. Any thread may read all of them, also in a crash. A
 * value is named by the key it was stored or loaded under: RENAME and COPY do not change that. */
#pragma once

#include "values/runnable.h"

/* This thread has a record from now on. thread is copied. */
void running_register(const char *thread);

/* It begins with this runnable at this time (ns). function: of a script; NULL for models and the loader. */
void running_begin(const Runnable *runnable, const char *function, int64_t now);

/* It goes on with the next op of the same at this time; 0: it does nothing. */
void running_since(int64_t now);

/* Calls report for each thread that does something. what: `model=<key>,tag=<tag>` or `script=…,tag=…,function=…`. */
typedef void (*RunningReport)(void *data, const char *thread, const char *what, int64_t ns);
void running_report(RunningReport report, void *data);

/* Logs what has been going on for more than a second, once each. Main thread, when a client has waited too long. */
void running_log(void);
