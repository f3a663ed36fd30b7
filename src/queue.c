/* queue.c - the queues of devices (queue.h).
 *
 * Lock: queue.mutex, one a queue, held for a few pointer moves only, a leaf. The table of queues has one writer, the
 * loader, which publishes a queue by raising `count`; readers on any thread load `count` first. */
#include "queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "allocator.h"
#include "op.h"
#include "options.h"
#include "redis_api.h"

#define MAX_QUEUES 64 /* a client may name any device: bounds the threads it can make us start */

#define FEW 2 /* ops at a time, as one or two clients send them */

typedef struct List {
    Op *first;
    Op *last;
} List;

struct Queue {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* by the monotonic clock */
    List plain;
    List batched;
    int sleeping;    /* workers that wait for `changed` */
    int looking;     /* a worker looks for work without sleeping */
    int few;         /* only few ops were taken last */
    int news;        /* atomic: counts what should wake a worker */
    int held;        /* ops that the batcher has */
    int unwanted;    /* of those, ops that nobody waits for */
    int64_t wake_at; /* bridge_wake_at(); 0: never */
    int submitted;   /* main thread only, like the next two: ops pushed in this turn of the event loop, */
    int before;      /* and in the last one that pushed any */
    int is_quiet;    /* no worker has been told of the latest of them */
    char device[16];
    struct {
        int started; /* atomic */
        clockid_t cpu_clock;
    } workers[]; /* threads_per_queue */
};

static struct {
    int count; /* atomic */
    Queue *queues[MAX_QUEUES];
    long cores; /* set with the first queue */
} table;

int queue_count(void) {
    return __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
}

Queue *queue_at(int index) {
    return table.queues[index];
}

const char *queue_device(const Queue *queue) {
    return queue->device;
}

double queue_worker_cpu(const Queue *queue, int worker) {
    struct timespec used;
    if (!__atomic_load_n(&queue->workers[worker].started, __ATOMIC_ACQUIRE)) return -1;
    if (clock_gettime(queue->workers[worker].cpu_clock, &used) == -1) return -1;
    return used.tv_sec + used.tv_nsec / 1e9;
}

Queue *bridge_open_queue(const char *device) {
    int count = queue_count();
    if (count == 0) table.cores = sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < count; i++) {
        if (strcmp(table.queues[i]->device, device) == 0) return table.queues[i];
    }
    /* The last two places are for the devices that everybody uses. */
    int is_plain = strcmp(device, "CPU") == 0 || strcmp(device, "GPU") == 0;
    if (count >= MAX_QUEUES - (is_plain ? 0 : 2) || strlen(device) >= sizeof(table.queues[0]->device)) return NULL;

    Queue *queue = RedisModule_Calloc(1, sizeof(Queue) + options.engine.threads_per_queue * sizeof(queue->workers[0]));
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    strcpy(queue->device, device);
    table.queues[count] = queue;
    __atomic_store_n(&table.count, count + 1, __ATOMIC_RELEASE);
    return queue;
}

static void append(List *list, Op *op) {
    op->next = NULL;
    if (list->last) {
        list->last->next = op;
    } else {
        list->first = op;
    }
    list->last = op;
}

/* Many clients' ops come in one turn of the event loop, and to wake a worker for each costs both sides more than a
 * tiny run. A worker is told of so many at once, or at the end of the turn; of those for a batch only then. Where turns
 * bring only a few it is told at once. */
#define TELL_AT_ONCE 8

/* A worker has something to do; with the mutex held. Returns whether one has to be woken, by unlock_and_wake: woken
 * under the mutex, it would only go to sleep again until the mutex is free. */
static int note_news(Queue *queue) {
    __atomic_store_n(&queue->news, queue->news + 1, __ATOMIC_RELEASE);
    return queue->sleeping && !queue->looking;
}

static void unlock_and_wake(Queue *queue, int is_needed) {
    pthread_mutex_unlock(&queue->mutex);
    if (is_needed) pthread_cond_signal(&queue->changed);
}

/* What the batcher holds is swept once an eighth of it is unwanted: sweeping looks at all, so the cost for each stays
 * constant, and so does the share of memory that nobody needs. */
static int sweep_is_due(const Queue *queue) {
    return queue->unwanted > 0 && queue->unwanted >= queue->held / 8;
}

static int moment_has_come(const Queue *queue) {
    return queue->wake_at && monotonic_ns() >= queue->wake_at;
}

static int has_work(const Queue *queue) {
    return queue->plain.first || queue->batched.first || sweep_is_due(queue) || moment_has_come(queue);
}

void queue_push(Queue *queue, Op *op) {
    pthread_mutex_lock(&queue->mutex);
    append(op->rows ? &queue->batched : &queue->plain, op);
    unlock_and_wake(queue, note_news(queue));
}

/* Main thread only. Commands of clients that were blocked are processed between the end of a turn and the sleep of the
 * loop, which might be long. */
static int in_turn;

void queue_begin_turn(void) {
    in_turn = 1;
}

void queue_submit(Queue *queue, Op *op) {
    queue->submitted++;
    queue->is_quiet = in_turn && queue->before > FEW && (op->rows || queue->submitted % TELL_AT_ONCE != 0);
    pthread_mutex_lock(&queue->mutex);
    append(op->rows ? &queue->batched : &queue->plain, op);
    unlock_and_wake(queue, !queue->is_quiet && note_news(queue));
}

void queue_end_turn(void) {
    in_turn = 0;
    int count = queue_count();
    for (int i = 0; i < count; i++) {
        Queue *queue = table.queues[i];
        if (queue->submitted == 0) continue;
        queue->before = queue->submitted;
        queue->submitted = 0;
        if (!queue->is_quiet) continue;
        queue->is_quiet = 0;
        pthread_mutex_lock(&queue->mutex);
        unlock_and_wake(queue, has_work(queue) && note_news(queue));
    }
}

/* ---- what the batcher holds -------------------------------------------------------------------------------------- */

/* Either this sees that the op is unwanted, or who made it so sees that it is held (both sequentially consistent). */
static void hold(Queue *queue, Op *op) {
    __atomic_store_n(&op->held, 1, __ATOMIC_SEQ_CST);
    queue->held++;
    if (!op_is_wanted(op)) queue->unwanted++;
}

void queue_note_unwanted(Op *op) {
    if (!__atomic_load_n(&op->held, __ATOMIC_SEQ_CST)) return;
    Queue *queue = op->runnable->queue;
    pthread_mutex_lock(&queue->mutex);
    int is_held = __atomic_load_n(&op->held, __ATOMIC_SEQ_CST);
    if (is_held) queue->unwanted++;
    unlock_and_wake(queue, is_held && sweep_is_due(queue) && note_news(queue));
}

void queue_release_held(Op **ops, int n) {
    int held = 0;
    for (int i = 0; i < n; i++) held += __atomic_load_n(&ops[i]->held, __ATOMIC_RELAXED);
    if (held == 0) return;
    Queue *queue = ops[0]->runnable->queue;
    pthread_mutex_lock(&queue->mutex);
    for (int i = 0; i < n; i++) __atomic_store_n(&ops[i]->held, 0, __ATOMIC_RELEASE);
    queue->held -= held;
    pthread_mutex_unlock(&queue->mutex);
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

void bridge_wake_at(Queue *queue, int64_t moment) {
    pthread_mutex_lock(&queue->mutex);
    queue->wake_at = moment;
    unlock_and_wake(queue, moment && note_news(queue));
}

/* Behind the work of one or two clients a worker looks for more without sleeping, for a moment: to be woken costs a
 * client 40 us, half of a round trip. Where many clients are served, it is busy or others need the core. */
#define LOOK_NS 50000

static void look_for_news(Queue *queue) {
    int news = queue->news;
    queue->looking = 1;
    pthread_mutex_unlock(&queue->mutex);
    int64_t end = monotonic_ns() + LOOK_NS;
    while (__atomic_load_n(&queue->news, __ATOMIC_ACQUIRE) == news && monotonic_ns() < end) {
    }
    pthread_mutex_lock(&queue->mutex);
    queue->looking = 0;
}

static void sleep_until_changed(Queue *queue) {
    queue->sleeping++;
    if (queue->wake_at) {
        struct timespec until = {.tv_sec = queue->wake_at / 1000000000, .tv_nsec = queue->wake_at % 1000000000};
        pthread_cond_timedwait(&queue->changed, &queue->mutex, &until);
    } else {
        pthread_cond_wait(&queue->changed, &queue->mutex);
    }
    queue->sleeping--;
}

/* Moves at most most ops off the list. */
static int take(List *list, Op **ops, int most) {
    int count = 0;
    while (count < most && list->first) {
        ops[count++] = list->first;
        list->first = list->first->next;
    }
    if (list->first == NULL) list->last = NULL;
    return count;
}

void bridge_take_ops(Queue *queue, int worker, Taken *taken, int most, int wait) {
    if (!queue->workers[worker].started) {
        pthread_getcpuclockid(pthread_self(), &queue->workers[worker].cpu_clock);
        allocator_prepare_thread();
        __atomic_store_n(&queue->workers[worker].started, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_lock(&queue->mutex);
    if (wait && queue->few && !queue->looking && !has_work(queue)) look_for_news(queue);
    while (wait && !has_work(queue)) sleep_until_changed(queue);

    taken->nplain = take(&queue->plain, taken->plain, most < TAKE_PLAIN ? most : TAKE_PLAIN);
    taken->nbatched = take(&queue->batched, taken->batched, TAKE_BATCHED);
    for (int i = 0; i < taken->nbatched; i++) hold(queue, taken->batched[i]);
    queue->few = taken->nplain + taken->nbatched <= FEW && table.cores > 1;
    taken->woken = moment_has_come(queue);
    if (taken->woken) queue->wake_at = 0;
    taken->sweep = sweep_is_due(queue);
    if (taken->sweep) queue->unwanted = 0;

    /* Whoever slept with the moment in mind may be the one that leaves with work now. */
    unlock_and_wake(queue, (queue->wake_at || has_work(queue)) && note_news(queue));
}
