/* event_loop.c - performs tasks in the iterations of Redis's event loop (event_loop.h).
 *
 * Any thread posts, the main thread performs. Lock: tasks.mutex, a leaf, held for a few pointer moves. `first` is
 * atomic too: the main thread reads it in each iteration without the lock. */
#include "redis/event_loop.h"

#include <pthread.h>

#include "redis/latency.h"

#define RETRY_MS 5

/* Workers post many tasks at once. If one iteration performed them all, other clients would wait: GET beside 50 clients
 * of a tiny model took 300 us at the 99th percentile, and takes 200. With 8 it would take 100, but the server would do
 * a tenth fewer runs per second. */
#define MAX_PER_ITERATION 16
#define MAX_BYTES (512 * 1024) /* written in one iteration: replicas get them in one MULTI, from a copy */
#define MAX_ITERATIONS 4       /* in a row that leave tasks for the next, before listener->end() is called again */

static const LoopListener *listener;

/* Of the tasks. Not the event's own context: Redis 7.0 crashes when it logs a denial by ACLs for a client without a
 * user. What the tasks write is replicated when the event's context ends. */
static RedisModuleCtx *task_context;

/* The main thread handles events: what it posts itself is performed before it sleeps. Other threads see 0. */
static __thread int is_handling;

static size_t written;  /* by the tasks of this iteration, bytes */
static int64_t stalled; /* in this iteration, ns */

static struct {
    pthread_mutex_t mutex;
    Task *first;
    Task *last;
    int has_timer;  /* main thread only, like iterations */
    int iterations; /* in a row that have left tasks for the next */
} tasks = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void do_nothing(void *unused) {}

static void wake(void) { RedisModule_EventLoopAddOneShot(do_nothing, NULL); }

/* Returns whether the list was empty. */
static int append(Task *task) {
    task->next = NULL;
    pthread_mutex_lock(&tasks.mutex);
    int was_empty = tasks.first == NULL;
    if (was_empty) {
        __atomic_store_n(&tasks.first, task, __ATOMIC_RELEASE);
    } else {
        tasks.last->next = task;
    }
    tasks.last = task;
    pthread_mutex_unlock(&tasks.mutex);
    return was_empty;
}

void event_loop_post(Task *task) {
    if (append(task) && !is_handling) wake(); /* the loop may sleep; one iteration sees all */
}

static int has_tasks(void) { return __atomic_load_n(&tasks.first, __ATOMIC_ACQUIRE) != NULL; }

/* Takes the tasks of this iteration off the list, which is not empty. */
static Task *take_tasks(void) {
    pthread_mutex_lock(&tasks.mutex);
    Task *first = tasks.first, *last = first;
    for (int i = 1; i < MAX_PER_ITERATION && last->next; i++) last = last->next;
    __atomic_store_n(&tasks.first, last->next, __ATOMIC_RELEASE);
    last->next = NULL;
    pthread_mutex_unlock(&tasks.mutex);
    return first;
}

void event_loop_note_written(size_t bytes) { written += bytes; }
int64_t event_loop_add_stall(int64_t ns) { return stalled += ns; }

static void retry(RedisModuleCtx *ctx, void *unused) {
    tasks.has_timer = 0; /* only an iteration was needed, and the timer has started one */
}

static void end_iteration(RedisModuleCtx *ctx) {
    int any = has_tasks();
    int is_paused = any && RedisModule_AvoidReplicaTraffic();
    Task *task = any ? take_tasks() : NULL;
    int more = task && !is_paused && has_tasks();
    if (more) wake();
    tasks.iterations = more ? tasks.iterations + 1 : 0;
    if (tasks.iterations % MAX_ITERATIONS == 0) listener->end(); /* first: workers begin while tasks are performed */
    written = 0;
    int64_t begun = task ? monotonic_ns() : 0;
    for (Task *next; task; task = next) {
        next = task->next;
        if (written >= MAX_BYTES || (is_paused && (task->is_void == NULL || !task->is_void(task)))) {
            append(task); /* their order may change: these clients wait at the same time */
        } else {
            task->perform(task_context, task);
        }
    }
    if (begun) latency_note("redisai-tasks", begun);
    if (written >= MAX_BYTES) wake();
    if (!is_paused || tasks.has_timer) return;
    RedisModule_CreateTimer(ctx, RETRY_MS, retry, NULL);
    tasks.has_timer = 1;
}

static void on_event(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    is_handling = subevent != REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP;
    if (!is_handling) {
        end_iteration(ctx);
    } else {
        stalled = 0;
        listener->begin();
    }
}

#define MAX_LISTENERS 16

static struct {
    uint64_t event;
    RedisModuleEventCallback callback;
} listeners[MAX_LISTENERS];
static int nlisteners;

static void tell_listeners(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    for (int i = 0; i < nlisteners; i++) {
        if (listeners[i].event == event.id) listeners[i].callback(ctx, event, subevent, data);
    }
}

int listen_to(RedisModuleCtx *ctx, uint64_t event, RedisModuleEventCallback callback) {
    int at = 0; /* a load that was refused may have added it */
    while (at < nlisteners && (listeners[at].event != event || listeners[at].callback != callback)) at++;
    if (at == MAX_LISTENERS) return REDISMODULE_ERR;
    listeners[at].event = event;
    listeners[at].callback = callback;
    nlisteners += at == nlisteners;
    return RedisModule_SubscribeToServerEvent(ctx, (RedisModuleEvent){event, 1}, tell_listeners);
}

int event_loop_init(RedisModuleCtx *ctx, const LoopListener *given) {
    listener = given;
    task_context = RedisModule_GetDetachedThreadSafeContext(ctx);
    return RedisModule_SubscribeToServerEvent(ctx, (RedisModuleEvent){REDISMODULE_EVENT_EVENTLOOP, 1}, on_event);
}
