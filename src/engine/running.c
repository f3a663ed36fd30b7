/* running.c - what the loader and each worker do now (running.h).
 *
 * A record is written by its thread alone. It is never freed. Readers copy it, and copy it again if it has changed
 * meanwhile. Everything is atomic and relaxed but `version`, which is odd during a change. */
#include "engine/running.h"

#include <stdio.h>
#include <string.h>

#include "redis/clock.h"

#define LONG_NS 1000000000LL
#define ATTEMPTS 3 /* at a record that changes: a crash report must end */

static RunningRecord *records;            /* atomic */
static _Thread_local RunningRecord *mine; /* NULL: this thread has none */

static struct {
    RunningRecord *records;
    int count;
    int used; /* atomic */
} place;

void running_set_place(RunningRecord *given, int count) {
    place.records = given;
    place.count = count;
}

static RunningRecord *new_record(void) {
    int index = place.count ? __atomic_fetch_add(&place.used, 1, __ATOMIC_RELAXED) : 0;
    return index < place.count ? &place.records[index] : RedisModule_Calloc(1, sizeof(RunningRecord));
}

void running_register(const char *thread) {
    RunningRecord *record = new_record();
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

uint64_t running_id(void) { return mine && __atomic_load_n(&mine->since, __ATOMIC_RELAXED) ? mine->id : 0; }

/* Writes into what, and returns since when (ns); 0: it does nothing. */
static int64_t read_record(const RunningRecord *record, char *what, size_t size) {
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

/* ---- readers ----------------------------------------------------------------------------------------------------- */

#define WATCHED 64

typedef struct Watched {
    const char *device;
    const RunningRecord *records;
    int64_t *logged; /* main thread: by record, the latest `since` that was logged */
    int count;
} Watched;

static struct {
    int count; /* atomic */
    Watched places[WATCHED];
} watched;

void running_watch(const char *device, const RunningRecord *theirs, int count) {
    int index = __atomic_load_n(&watched.count, __ATOMIC_RELAXED);
    if (index == WATCHED) return;
    int64_t *logged = RedisModule_Calloc(count, sizeof(*logged));
    watched.places[index] = (Watched){.device = device, .records = theirs, .logged = logged, .count = count};
    __atomic_store_n(&watched.count, index + 1, __ATOMIC_RELEASE);
}

/* Whatever would end a line or a field of INFO is replaced. */
static void make_printable(char *text, size_t size) {
    text[size - 1] = '\0';
    for (char *at = text; *at; at++) *at = *at > ' ' ? *at : '?';
}

/* A copy of a record that another process writes. */
static RunningRecord copy_theirs(const Watched *place, int index) {
    RunningRecord record;
    memcpy(&record, &place->records[index], sizeof(record));
    make_printable(record.label, sizeof(record.label));
    make_printable(record.function, sizeof(record.function));
    make_printable(record.thread, sizeof(record.thread));
    record.version = 0;
    if (strcmp(record.thread, "loader") == 0) {
        snprintf(record.thread, sizeof(record.thread), "loader_%s", place->device);
    }
    return record;
}

typedef void (*Visitor)(void *data, const char *thread, const char *what, int64_t since, int64_t *logged);

static void visit_one(const RunningRecord *record, int64_t *logged, Visitor visit, void *data) {
    char what[RUNNABLE_LABEL + FUNCTION_SIZE + 16];
    int64_t since = read_record(record, what, sizeof(what));
    if (since) visit(data, record->thread, what, since, logged);
}

static void visit_all(Visitor visit, void *data) {
    for (RunningRecord *record = __atomic_load_n(&records, __ATOMIC_ACQUIRE); record; record = record->next) {
        visit_one(record, &record->logged, visit, data);
    }
    int places = __atomic_load_n(&watched.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < places; i++) {
        const Watched *place = &watched.places[i];
        for (int n = 0; n < place->count; n++) {
            RunningRecord record = copy_theirs(place, n);
            visit_one(&record, &place->logged[n], visit, data);
        }
    }
}

typedef struct Reported {
    RunningReport report;
    void *data;
    int64_t now;
} Reported;

static void report_one(void *data, const char *thread, const char *what, int64_t since, int64_t *logged) {
    const Reported *to = data;
    to->report(to->data, thread, what, to->now > since ? to->now - since : 0);
}

void running_report(RunningReport report, void *data) {
    Reported to = {.report = report, .data = data, .now = monotonic_ns()};
    visit_all(report_one, &to);
}

static void log_one(void *data, const char *thread, const char *what, int64_t since, int64_t *logged) {
    int64_t busy = monotonic_ns() - since;
    if (since == *logged || busy < LONG_NS) return;
    *logged = since;
    RedisModule_Log(log_context, "notice", "a client has waited too long; %s has been busy for %lld ms with %s", thread,
                    (long long)busy / 1000000, what);
}

void running_log(void) { visit_all(log_one, NULL); }
