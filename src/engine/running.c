/* running.c - what the loader and each worker do now (running.h).
 *
 * A record is written by its thread alone. It is never freed. Readers copy it, and copy it again if it has changed
 * meanwhile. Everything is atomic and relaxed but `version`, which is odd during a change. */
#include "engine/running.h"

#include <stdio.h>
#include <string.h>

#include "redis/clock.h"

#define FUNCTION_SIZE 48
#define LONG_NS 1000000000LL
#define ATTEMPTS 3 /* at a record that changes: a crash report must end */

typedef struct Record {
    uint64_t version;
    uint64_t id; /* of the runnable; 0: none yet */
    int64_t since;
    int64_t logged; /* main thread: the latest `since` that was logged */
    char label[RUNNABLE_LABEL];
    char function[FUNCTION_SIZE]; /* empty: none */
    char thread[48];
    struct Record *next;
} Record;

static Record *records;            /* atomic */
static _Thread_local Record *mine; /* NULL: this thread has none */

void running_register(const char *thread) {
    Record *record = RedisModule_Calloc(1, sizeof(*record));
    snprintf(record->thread, sizeof(record->thread), "%s", thread);
    record->next = __atomic_load_n(&records, __ATOMIC_ACQUIRE);
    while (!__atomic_compare_exchange_n(&records, &record->next, record, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    }
    mine = record;
}

/* Both are aligned, and size is a multiple of 8. */
static void copy(char *to, const char *from, size_t size) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = __atomic_load_n((const uint64_t *)(from + i), __ATOMIC_RELAXED);
        __atomic_store_n((uint64_t *)(to + i), word, __ATOMIC_RELAXED);
    }
}

void running_since(int64_t now) {
    if (mine) __atomic_store_n(&mine->since, now, __ATOMIC_RELAXED);
}

void running_begin(const Runnable *runnable, const char *function, int64_t now) {
    if (mine == NULL) return;
    if (mine->id != runnable->id || function || mine->function[0]) {
        _Alignas(8) char name[FUNCTION_SIZE] = "";
        if (function) strncpy(name, function, sizeof(name) - 1);
        __atomic_store_n(&mine->version, mine->version + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        copy(mine->label, runnable->state->label, RUNNABLE_LABEL);
        copy(mine->function, name, FUNCTION_SIZE);
        __atomic_store_n(&mine->version, mine->version + 1, __ATOMIC_RELEASE);
        mine->id = runnable->id;
    }
    running_since(now);
}

/* Writes into what, and returns since when (ns); 0: it does nothing. */
static int64_t read_record(const Record *record, char *what, size_t size) {
    _Alignas(8) char label[RUNNABLE_LABEL], function[FUNCTION_SIZE];
    int64_t since = 0;
    for (int i = 0; i < ATTEMPTS; i++) {
        uint64_t version = __atomic_load_n(&record->version, __ATOMIC_ACQUIRE);
        since = __atomic_load_n(&record->since, __ATOMIC_RELAXED);
        copy(label, record->label, RUNNABLE_LABEL);
        copy(function, record->function, FUNCTION_SIZE);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (version % 2 == 0 && version == __atomic_load_n(&record->version, __ATOMIC_RELAXED)) break;
    }
    label[RUNNABLE_LABEL - 1] = function[FUNCTION_SIZE - 1] = '\0';
    snprintf(what, size, "%s%s%s", label, function[0] ? ",function=" : "", function);
    return since;
}

void running_report(RunningReport report, void *data) {
    int64_t now = monotonic_ns();
    for (Record *record = __atomic_load_n(&records, __ATOMIC_ACQUIRE); record; record = record->next) {
        char what[RUNNABLE_LABEL + FUNCTION_SIZE + 16];
        int64_t since = read_record(record, what, sizeof(what));
        if (since) report(data, record->thread, what, now > since ? now - since : 0);
    }
}

void running_log(void) {
    int64_t now = monotonic_ns();
    for (Record *record = __atomic_load_n(&records, __ATOMIC_ACQUIRE); record; record = record->next) {
        char what[RUNNABLE_LABEL + FUNCTION_SIZE + 16];
        int64_t since = read_record(record, what, sizeof(what));
        if (since == 0 || since == record->logged || now - since < LONG_NS) continue;
        record->logged = since;
        RedisModule_Log(log_context, "notice", "a client has waited too long; %s has been busy for %lld ms with %s",
                        record->thread, (long long)(now - since) / 1000000, what);
    }
}
