/* queue.h - the queues of devices: the main thread (and the loader) push runs, workers take them.
 *
 * One queue a device, made by the loader when the first model for it is compiled, never removed. */
#ifndef QUEUE_H
#define QUEUE_H

#include "bridge.h"

typedef struct Queue Queue;

void queue_push(Queue *queue, Run *run);

/* The queues in the order they were made; for INFO. */
int queue_count(void);
Queue *queue_at(int index);
const char *queue_device(const Queue *queue);

/* CPU time that a worker of the queue has used, in seconds; -1 while the worker has not started. */
double queue_worker_cpu(const Queue *queue, int worker);

#endif
