/* runnable.h - what models and scripts have in common: references, readiness, statistics. bridge.h has Python's part.
 *
 * The definition is immutable from the moment a second thread can see it, but for a model's limits. What the loader
 * finds out is written once, before the runnable is ready; readers ask runnable_is_ready() first. Any thread may take
 * and release references. The last release hands the value to the loader, which forgets the compiled session and frees
 * the memory. So dropping a model of any size costs the main thread nothing. */
#pragma once

#include "bridge.h"
#include "redis/api.h"
#include "values/slowest.h"
#include "values/stats.h"

#define RUNNABLE_LABEL 104

typedef struct RunnableState {
    int32_t refs;                        /* atomic */
    int32_t ready;                       /* atomic; once set, queue and what the loader declared never change */
    void (*destroy)(Runnable *runnable); /* frees the Model or Script and what only it has */
    Stats stats;
    Tuning tuning;       /* atomic; of models with BATCHSIZE auto */
    struct Cache *cache; /* of a model: main thread (values/cache.h) */
    Slowest slowest;
    int64_t compiled_by;   /* atomic: the start of the engine process of its device that has compiled it (isolation/) */
    int32_t has_failed;    /* atomic: the loader could not compile it */
    int32_t limits_posted; /* atomic: the loader has yet to learn of new limits (engine/jobs.c) */
    int64_t submitted;     /* main thread: runs that have begun to wait (run/limits.c) */
    int64_t left;          /* atomic: of them, those that do not wait any more */
    int64_t died; /* the start of the last engine process that ended under it, as it was counted (isolation/) */
    _Alignas(8) char label[RUNNABLE_LABEL]; /* `model=<key>,tag=<tag>`, cut and printable; for people only */
} RunnableState;

/* What values need of the loader, which registers it at load (engine/jobs.c). */
typedef struct RunnableHooks {
    void (*compile)(Runnable *runnable); /* in the background; takes a reference of its own */
    void (*drop)(Runnable *runnable);    /* no reference is left: end with runnable_destroy() */
} RunnableHooks;
void runnable_set_hooks(const RunnableHooks *hooks);

/* Whether text names a device, in any case: what begins with CPU; GPU, and what begins with GPU:. Deployed servers have
 * such values. exact: CPU, GPU, CPU:n or GPU:n, under 10 characters. */
int device_is_valid(const char *text);
int device_is_exact(const char *text, size_t len);

/* That no model, script or run has had in this server. */
uint64_t new_id(void);

/* Gives a new, zeroed value its id and one reference, the caller's. */
void runnable_init(Runnable *runnable, int kind, int backend, void (*destroy)(Runnable *runnable));

/* Sets its label, once its tag is known, before it is shared. key NULL: unknown. */
void runnable_set_label(Runnable *runnable, const RedisModuleString *key);

/* The key it was stored or loaded under, as in its label. For people only, like the next. */
#define RUNNABLE_NAME 64
void runnable_key(const Runnable *runnable, char key[RUNNABLE_NAME]);

/* Its tag, or the key it was stored or loaded under, as in its label. */
void runnable_name(const Runnable *runnable, char name[RUNNABLE_NAME]);

Runnable *runnable_ref(Runnable *runnable);
void runnable_unref(Runnable *runnable);

/* Whether the caller's reference is the only one. Then no other thread can take one. */
int runnable_has_one_ref(const Runnable *runnable);

/* What the tuner of a model has found out. Any thread. */
void runnable_set_tuning(Runnable *runnable, const Tuning *tuning);

/* Frees it. For the loader when it has dropped the session, and for values that the loader has never seen. */
void runnable_destroy(Runnable *runnable);

/* Has the loader compile it in the background; with SAFE_START not before its first run. */
void runnable_compile(Runnable *runnable);

/* Whether the loader has compiled it. Acquires: after 1, what the loader declared may be read. */
int runnable_is_ready(const Runnable *runnable);
void runnable_set_ready(Runnable *runnable, struct Queue *queue); /* releases; loader only */
