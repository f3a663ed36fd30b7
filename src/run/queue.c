/* queue.c - the queues of devices (queue.h).
 *
 * Lock: queue.mutex, one per queue, a leaf, held for a few pointer moves. The loader alone adds to the table of queues.
 * It publishes a queue by raising `count`, which readers on any thread load first. */
#include "run/queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/allocator.h"
#include "engine/options.h"
#include "engine/running.h"
#include "redis/clock.h"
#include "run/state.h"

#define MAX_QUEUES 64 /* clients may name any device: this bounds the threads that they can make us start */

#define LIGHT_LOAD 2 /* ops at a time, as one or two clients send them */

#define TURN_NS 1000000000LL /* a priority that waits gets a turn after this time, whatever higher ones have to do */

typedef struct List {
    Op *first;
    Op *last;
} List;

struct Queue {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* by the monotonic clock */
    List plain[PRIORITIES];
    List batched[PRIORITIES];
    int batches;                     /* atomic: bridge_set_batches() */
    int64_t passed_over[PRIORITIES]; /* ns: it has waited since then, while others had all turns; 0: it does not */
    int sleeping;                    /* workers that wait for `changed` */
    int is_polled;                   /* a worker looks for work without sleeping */
    int is_lightly_loaded;           /* the last take found few ops */
    int announcements;               /* atomic: counts what should wake a worker */
    int held;                        /* ops that the batcher has */
    int unwanted;                    /* of those, ops that nobody waits for */
    int64_t full;         /* a limit has refused runs of this model, or ALL_MODELS: their batches must not wait */
    int64_t deadline;     /* bridge_set_deadline(); 0: none */
    int submitted;        /* main thread only, like the next two: ops submitted in this iteration of the event loop, */
    int last_submitted;   /* and in the last one that submitted any */
    int is_unannounced;   /* no worker has been told of the latest of them */
    int is_received;      /* a worker waits for the source */
    const Source *source; /* NULL: ops come by queue_push() */
    Consumer *consumer;   /* NULL: workers of this process take the ops */
    char device[16];
    Totals totals; /* atomic */
    struct {
        int started; /* atomic */
        clockid_t cpu_clock;
        int priority; /* of its latest turn */
    } workers[];      /* threads_per_queue */
};

static struct {
    int count; /* atomic */
    Queue *queues[MAX_QUEUES];
    long cores; /* set with the first queue */
} table;

int queue_count(void) { return __atomic_load_n(&table.count, __ATOMIC_ACQUIRE); }
Queue *queue_at(int index) { return table.queues[index]; }
const char *queue_device(const Queue *queue) { return queue->device; }

double queue_worker_cpu(const Queue *queue, int worker) {
    struct timespec used;
    if (queue->consumer) return worker == 0 ? queue->consumer->cpu(queue->consumer) : -1;
    if (!__atomic_load_n(&queue->workers[worker].started, __ATOMIC_ACQUIRE)) return -1;
    if (clock_gettime(queue->workers[worker].cpu_clock, &used) == -1) return -1;
    return used.tv_sec + used.tv_nsec / 1e9;
}

static void count(int64_t *counter, int64_t number) { __atomic_add_fetch(counter, number, __ATOMIC_RELAXED); }
static int64_t get(const int64_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }

void queue_add_totals(Queue *queue, const Totals *totals) {
    count(&queue->totals.calls, totals->calls);
    if (totals->errors) count(&queue->totals.errors, totals->errors);
    count(&queue->totals.executions, totals->executions);
    count(&queue->totals.duration, totals->duration);
    count(&queue->totals.queued, totals->queued);
}

Totals queue_totals(const Queue *queue) {
    const Totals *totals = &queue->totals;
    return (Totals){get(&totals->calls), get(&totals->errors), get(&totals->executions), get(&totals->duration),
                    get(&totals->queued)};
}

Queue *bridge_open_queue(const char *device) { return queue_open(device, NULL); }

static int is_plain(const char *device) { return strcmp(device, "CPU") == 0 || strcmp(device, "GPU") == 0; }

Queue *queue_open(const char *device, Consumer *consumer) {
    int count = queue_count();
    if (count == 0) table.cores = sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < count; i++) {
        if (strcmp(table.queues[i]->device, device) == 0) return table.queues[i];
    }
    /* Two places are for the devices that everybody uses. */
    int others = 0;
    for (int i = 0; i < count; i++) others += !is_plain(table.queues[i]->device);
    if (!is_plain(device) && others >= MAX_QUEUES - 2) return NULL;
    if (strlen(device) >= sizeof(table.queues[0]->device)) return NULL;

    Queue *queue = RedisModule_Calloc(1, sizeof(Queue) + threads_per_queue() * sizeof(queue->workers[0]));
    pthread_mutex_init(&queue->mutex, NULL);
    monotonic_cond_init(&queue->changed);
    strcpy(queue->device, device);
    queue->consumer = consumer;
    table.queues[count] = queue;
    __atomic_store_n(&table.count, count + 1, __ATOMIC_RELEASE);
    return queue;
}

static void append(List *list, Op *op) {
    op->state->next = NULL;
    if (list->last) {
        list->last->state->next = op;
    } else {
        list->first = op;
    }
    list->last = op;
}

static void add(Queue *queue, Op *op) {
    append(op->rows ? &queue->batched[op->priority] : &queue->plain[op->priority], op);
}

/* The priorities of which these lists have ops, as bits. */
static int priorities_of(const List *lists) {
    int bits = 0;
    for (int i = PRIORITY_LOW; i <= PRIORITY_HIGH; i++) bits |= (lists[i].first != NULL) << i;
    return bits;
}

/* Many clients' ops come in one iteration of the event loop. To wake a worker for each costs both sides more than a
 * tiny run. So a worker is told once per this many ops, and at the end of the iteration; of ops for a batch at the end
 * only. Under a light load it is told at once. */
#define ANNOUNCE_EVERY 8

/* A worker has something to do. Call it with the mutex held. Returns whether unlock_and_wake must wake one: a worker
 * that is woken under the mutex goes to sleep again until the mutex is free. */
static int announce(Queue *queue) {
    __atomic_store_n(&queue->announcements, queue->announcements + 1, __ATOMIC_RELEASE);
    return queue->sleeping && !queue->is_polled;
}

static void unlock_and_wake(Queue *queue, int is_needed) {
    int is_received = queue->is_received;
    pthread_mutex_unlock(&queue->mutex);
    if (!is_needed) return;
    if (is_received) {
        queue->source->wake();
    } else {
        pthread_cond_signal(&queue->changed);
    }
}

/* A sweep looks at all ops that the batcher holds. One for each eighth that is unwanted keeps the cost per op constant,
 * and bounds the memory that nobody needs. */
static int sweep_is_due(const Queue *queue) { return queue->unwanted > 0 && queue->unwanted >= queue->held / 8; }
static int deadline_has_passed(const Queue *queue) { return queue->deadline && monotonic_ns() >= queue->deadline; }

static int has_work(const Queue *queue) {
    return priorities_of(queue->plain) || priorities_of(queue->batched) || sweep_is_due(queue) ||
           deadline_has_passed(queue) || (queue->full && queue->held);
}

void queue_set_source(Queue *queue, const Source *source) { queue->source = source; }

void queue_receive(Queue *queue, Op *op) { add(queue, op); }
void queue_receive_unwanted(Queue *queue, int count) { queue->unwanted += count; }
void queue_receive_full(Queue *queue, int64_t model) {
    queue->full = queue->full && queue->full != model ? ALL_MODELS : model;
}

void queue_push(Queue *queue, Op *op) {
    if (queue->consumer) {
        queue->consumer->push(queue->consumer, op);
        queue->consumer->wake(queue->consumer);
        return;
    }
    pthread_mutex_lock(&queue->mutex);
    add(queue, op);
    unlock_and_wake(queue, announce(queue));
}

/* Main thread only. Commands of clients that were blocked come after the end of an iteration, before the loop sleeps.
 * That sleep may be long, so a worker is told of those at once. */
static int in_iteration;

static void begin_iteration(void) { in_iteration = 1; }

void queue_submit(Queue *queue, Op *op) {
    queue->submitted++;
    queue->is_unannounced =
        in_iteration && queue->last_submitted > LIGHT_LOAD && (op->rows || queue->submitted % ANNOUNCE_EVERY != 0);
    if (queue->consumer) {
        queue->consumer->push(queue->consumer, op);
        if (!queue->is_unannounced) queue->consumer->wake(queue->consumer);
        return;
    }
    pthread_mutex_lock(&queue->mutex);
    add(queue, op);
    unlock_and_wake(queue, !queue->is_unannounced && announce(queue));
}

static void end_iteration(void) {
    in_iteration = 0;
    int count = queue_count();
    for (int i = 0; i < count; i++) {
        Queue *queue = table.queues[i];
        if (queue->submitted == 0) continue;
        queue->last_submitted = queue->submitted;
        queue->submitted = 0;
        if (!queue->is_unannounced) continue;
        queue->is_unannounced = 0;
        if (queue->consumer) {
            queue->consumer->wake(queue->consumer);
            continue;
        }
        pthread_mutex_lock(&queue->mutex);
        unlock_and_wake(queue, has_work(queue) && announce(queue));
    }
}

const LoopListener queue_listener = {.begin = begin_iteration, .end = end_iteration};

void queue_note_full(int64_t model) {
    for (int i = 0; i < queue_count(); i++) {
        Queue *queue = queue_at(i);
        if (queue->consumer) {
            queue->consumer->note_full(queue->consumer, model);
            continue;
        }
        pthread_mutex_lock(&queue->mutex);
        queue_receive_full(queue, model);
        unlock_and_wake(queue, queue->held && announce(queue));
    }
}

/* ---- what the batcher holds -------------------------------------------------------------------------------------- */

/* Either this sees that the op is unwanted, or who made it so sees that it is held (both sequentially consistent). */
static void hold(Queue *queue, Op *op) {
    __atomic_store_n(&op->state->is_held, 1, __ATOMIC_SEQ_CST);
    queue->held++;
    if (!op_is_wanted(op)) queue->unwanted++;
}

void queue_note_unwanted(Op *op) {
    if (!runnable_is_ready(op->runnable)) return; /* it waits for the loader: no queue has it yet */
    Queue *queue = op->runnable->queue;
    if (queue->consumer) {
        op_disown(op);
        queue->consumer->note_unwanted(queue->consumer);
        return;
    }
    if (!__atomic_load_n(&op->state->is_held, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&queue->mutex);
    int is_held = __atomic_load_n(&op->state->is_held, __ATOMIC_SEQ_CST);
    if (is_held) queue->unwanted++;
    unlock_and_wake(queue, is_held && sweep_is_due(queue) && announce(queue));
}

void queue_release_held(Op **ops, int n) {
    int held = 0;
    for (int i = 0; i < n; i++) held += __atomic_load_n(&ops[i]->state->is_held, __ATOMIC_RELAXED);
    if (held == 0) return;
    Queue *queue = ops[0]->runnable->queue;
    pthread_mutex_lock(&queue->mutex);
    for (int i = 0; i < n; i++) __atomic_store_n(&ops[i]->state->is_held, 0, __ATOMIC_RELEASE);
    queue->held -= held;
    pthread_mutex_unlock(&queue->mutex);
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

void bridge_set_batches(Queue *queue, int priorities) {
    __atomic_store_n(&queue->batches, priorities, __ATOMIC_RELAXED);
}

/* Which of the priorities that wait, given as bits, has the next turn: the highest. A lower one has it after TURN_NS,
 * but no two such turns come one after the other. 0: none waits. */
static int next_turn(Queue *queue, int waiting) {
    int highest = PRIORITY_HIGH;
    while (highest && !(waiting >> highest & 1)) highest--;
    int turn = highest;
    int64_t now = waiting & (waiting - 1) ? monotonic_ns() : 0, *since = queue->passed_over;
    for (int i = PRIORITY_LOW; i < highest && since[highest] == 0; i++) {
        if (since[i] && now - since[i] >= TURN_NS && (turn == highest || since[i] < since[turn])) turn = i;
    }
    for (int i = PRIORITY_LOW; i <= PRIORITY_HIGH; i++) {
        if (i == turn || !(waiting >> i & 1)) {
            since[i] = 0;
        } else if (since[i] == 0) {
            since[i] = now;
        }
    }
    return turn;
}

/* Drops ops that nobody waits for: a priority that seldom has a turn would keep them, and lose its turns to them. Call
 * it with the mutex held, which it releases meanwhile. */
static void sweep_plain(Queue *queue, List *list) {
    List all = *list, wanted = {0};
    *list = wanted;
    pthread_mutex_unlock(&queue->mutex);
    for (Op *op; (op = all.first);) {
        all.first = op->state->next;
        if (bridge_sweep_ops(&op, 1)) append(&wanted, op);
    }
    pthread_mutex_lock(&queue->mutex);
    if (wanted.first == NULL) return;
    wanted.last->state->next = list->first; /* those came meanwhile */
    list->first = wanted.first;
    if (list->last == NULL) list->last = wanted.last;
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

void bridge_set_deadline(Queue *queue, int64_t deadline) {
    pthread_mutex_lock(&queue->mutex);
    queue->deadline = deadline;
    unlock_and_wake(queue, deadline && announce(queue));
}

/* Under a light load a worker polls for a while before it sleeps: waking it costs a client 40 us, half of a round trip.
 * Under a heavy load it is busy, or others need the core. */
#define POLL_NS 50000

static void poll_for_work(Queue *queue) {
    int announcements = queue->announcements;
    const Source *source = queue->source;
    queue->is_polled = 1;
    pthread_mutex_unlock(&queue->mutex);
    int64_t end = monotonic_ns() + POLL_NS;
    while (__atomic_load_n(&queue->announcements, __ATOMIC_ACQUIRE) == announcements &&
           (source == NULL || source->is_empty()) && monotonic_ns() < end) {
    }
    pthread_mutex_lock(&queue->mutex);
    queue->is_polled = 0;
    if (source) source->receive(queue);
}

/* One of the workers waits for the source, the others for that one to leave with work. */
static void wait_for_source(Queue *queue) {
    queue->is_received = 1;
    int64_t deadline = queue->deadline;
    pthread_mutex_unlock(&queue->mutex);
    queue->source->wait(deadline);
    pthread_mutex_lock(&queue->mutex);
    queue->is_received = 0;
    queue->source->receive(queue);
}

static void sleep_until_changed(Queue *queue) {
    queue->sleeping++;
    if (queue->source && !queue->is_received) {
        wait_for_source(queue);
    } else if (queue->deadline) {
        struct timespec until = monotonic_timespec(queue->deadline);
        pthread_cond_timedwait(&queue->changed, &queue->mutex, &until);
    } else {
        pthread_cond_wait(&queue->changed, &queue->mutex);
    }
    queue->sleeping--;
}

/* Takes up to max ops off the list. */
static int take(List *list, Op **ops, int max) {
    int count = 0;
    while (count < max && list->first) {
        ops[count++] = list->first;
        list->first = list->first->state->next;
    }
    if (list->first == NULL) list->last = NULL;
    return count;
}

static void take_batched(Queue *queue, Taken *taken) {
    taken->nbatched = 0;
    for (int i = PRIORITY_HIGH; i >= PRIORITY_LOW; i--) {
        int room = TAKE_BATCHED - taken->nbatched;
        taken->nbatched += take(&queue->batched[i], taken->batched + taken->nbatched, room);
    }
    for (int i = 0; i < taken->nbatched; i++) hold(queue, taken->batched[i]);
}

/* What earlier turns took tells nothing about ops of a lower priority: the first of those is taken alone. */
static void take_plain(Queue *queue, int worker, Taken *taken, int max) {
    int *last = &queue->workers[worker].priority, turn = taken->priority;
    if (turn < *last) max = 1;
    if (turn) *last = turn;
    taken->nplain = take(&queue->plain[turn], taken->plain, max < TAKE_PLAIN ? max : TAKE_PLAIN);
}

/* Whose turn it is. What the batcher has just got may not be ready, then this turn is short. */
static void begin_turn(Queue *queue, int batched, Taken *taken, int wait) {
    int batches = __atomic_load_n(&queue->batches, __ATOMIC_RELAXED);
    int waiting = priorities_of(queue->plain) | batched | batches | taken->kept;
    for (int i = 0; i < taken->nready; i++) waiting |= 1 << taken->ready[i]->priority;
    taken->waiting = waiting;
    taken->priority = next_turn(queue, waiting);
    if (waiting >> taken->priority > 1) sweep_plain(queue, &queue->plain[taken->priority]);
    taken->deadline_passed = wait && !queue->plain[taken->priority].first && (batches >> taken->priority & 1);
}

void queue_take(Queue *queue, int worker, Taken *taken, int max_plain, int wait) {
    if (!queue->workers[worker].started) {
        pthread_getcpuclockid(pthread_self(), &queue->workers[worker].cpu_clock);
        allocator_prepare_thread();
        char thread[64];
        snprintf(thread, sizeof(thread), WORKER_NAME, queue->device, worker + 1);
        running_register(thread);
        __atomic_store_n(&queue->workers[worker].started, 1, __ATOMIC_RELEASE);
    }
    running_since(0);
    pthread_mutex_lock(&queue->mutex);
    if (queue->source) queue->source->receive(queue);
    if (wait && queue->is_lightly_loaded && !queue->is_polled && !has_work(queue)) poll_for_work(queue);
    while (wait && !has_work(queue)) sleep_until_changed(queue);

    int batched = priorities_of(queue->batched);
    take_batched(queue, taken);
    begin_turn(queue, batched, taken, wait);
    take_plain(queue, worker, taken, max_plain);
    queue->is_lightly_loaded = taken->nplain + taken->nbatched <= LIGHT_LOAD && table.cores > 1;
    if (deadline_has_passed(queue)) {
        taken->deadline_passed = 1;
        queue->deadline = 0;
    }
    taken->full = queue->held ? queue->full : 0;
    taken->sweep = taken->full || sweep_is_due(queue);
    queue->full = 0;
    if (taken->sweep) queue->unwanted = 0;

    /* The worker that slept until the deadline may be the one that leaves with work now. */
    unlock_and_wake(queue, (queue->deadline || queue->source || has_work(queue)) && announce(queue));
}
