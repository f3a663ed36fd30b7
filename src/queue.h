/* queue.h - the queues of devices: the main thread, the loader and workers push ops, workers take them.
 *
 * One queue a device, made by the loader when the first model for it is compiled, never removed. It keeps ops that may
 * be batched apart from the others: a worker takes all of the former, wherever they stand, and hands them to the
 * batcher of the queue (redisai/batcher.py), which holds them until their batch is run. */
#ifndef QUEUE_H
#define QUEUE_H

#include "bridge.h"

typedef struct Queue Queue;

void queue_push(Queue *queue, Op *op);

/* The same from the main thread, which may let workers sleep until the end of the turn of its event loop: it calls
 * queue_end_turn before it sleeps, and queue_begin_turn when it has slept. */
void queue_submit(Queue *queue, Op *op);
void queue_begin_turn(void);
void queue_end_turn(void);

/* Nobody waits for this op any more. Where the batcher holds it, and many like it, it is told to sweep. */
void queue_note_unwanted(Op *op);

/* n ops of one queue are about to leave the batcher, if they were there. */
void queue_release_held(Op **ops, int n);

/* The queues in the order they were made; for INFO. */
int queue_count(void);
Queue *queue_at(int index);
const char *queue_device(const Queue *queue);

/* CPU time that a worker of the queue has used, in seconds; -1 while the worker has not started. */
double queue_worker_cpu(const Queue *queue, int worker);

#endif
