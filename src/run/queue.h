/* queue.h - the queues of devices: the main thread, the loader and workers push ops, workers take them.
 *
 * Ops of a higher priority are taken first. One queue per device. The loader makes it when it compiles the first model
 * for that device, and it stays. Ops that may be batched are kept apart from the others: a worker takes all of them,
 * and gives them to the batcher of the queue (redisai/batcher.py), which holds them until their batch runs. */
#pragma once

#include "bridge.h"
#include "redis/event_loop.h"

typedef struct Queue Queue;

extern const LoopListener queue_listener;

/* Takes the ops of a queue whose workers are in another process (isolation/). Any thread calls. */
typedef struct Consumer {
    void (*push)(struct Consumer *consumer, Op *op);
    void (*wake)(struct Consumer *consumer); /* there are ops of which the other process has not been told */
    void (*note_unwanted)(struct Consumer *consumer);
    void (*note_full)(struct Consumer *consumer, int64_t model);
    double (*cpu)(struct Consumer *consumer); /* s; -1: no process runs */
} Consumer;

/* Where ops come from, in the process whose workers run them. Its functions are called with the queue's mutex held,
 * except wait. */
typedef struct Source {
    void (*receive)(Queue *queue);  /* adds the new ops by queue_receive() */
    int (*is_empty)(void);          /* without the mutex too */
    void (*wait)(int64_t deadline); /* until ops come, or wake() is called; ns, 0: no deadline */
    void (*wake)(void);             /* the worker that waits */
} Source;

/* The queue of a device; made on first use, for this consumer (NULL: workers of this process). NULL: too many. The
 * caller must be the only one that opens queues. */
Queue *queue_open(const char *device, Consumer *consumer);

/* Workers of this queue shall take what comes from the source. Before the first of them starts. */
void queue_set_source(Queue *queue, const Source *source);
void queue_receive(Queue *queue, Op *op);
void queue_receive_unwanted(Queue *queue, int count);
void queue_receive_full(Queue *queue, int64_t model);

void queue_push(Queue *queue, Op *op);

/* For a worker: takes what bridge_work says, but up to max_plain (1 .. TAKE_PLAIN) of the ops that run alone. Runs
 * nothing. */
void queue_take(Queue *queue, int worker, Taken *taken, int max_plain, int wait);

/* The same from the main thread: workers may sleep until the end of this iteration of the event loop. */
void queue_submit(Queue *queue, Op *op);

/* Nobody waits for this op any more. Where the batcher holds many of those, it is told to sweep. */
void queue_note_unwanted(Op *op);

/* A limit has refused a run of this model (its id), or of ALL_MODELS. So batches that wait for more may wait in vain:
 * they run as they are. Main thread. */
void queue_note_full(int64_t model);

/* n ops of one queue leave the batcher, if they were there. */
void queue_release_held(Op **ops, int n);

/* What its workers have run, since the start. */
typedef struct Totals {
    int64_t calls, errors, executions; /* as of a model (values/stats.h) */
    int64_t duration, queued;          /* us */
} Totals;
void queue_add_totals(Queue *queue, const Totals *totals); /* any thread, like the next */
Totals queue_totals(const Queue *queue);

/* The queues in the order they were made; for INFO. */
int queue_count(void);
Queue *queue_at(int index);
const char *queue_device(const Queue *queue);

#define WORKER_NAME "queue_%s_bthread_n%d" /* device, number; the first is n1: dashboards know this numbering */

/* CPU time that a worker of the queue has used, in seconds; -1 while the worker has not started. */
double queue_worker_cpu(const Queue *queue, int worker);
