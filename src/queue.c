/* queue.c - the queues of devices (queue.h).
 *
 * Lock: queue.mutex, one a queue, held for a few pointer moves only, a leaf. The table of queues has one writer, the
 * loader, which publishes a queue by raising `count`; readers on any thread load `count` first. */
#include "queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "options.h"
#include "run.h"

#define MAX_QUEUES 64 /* a client may name any device: bounds the threads it can make us start */

struct Queue {
    pthread_mutex_t mutex;
    pthread_cond_t pushed;
    Run *first;
    Run *last;
    char device[16];
    struct {
        int started; /* atomic */
        clockid_t cpu_clock;
    } workers[]; /* threads_per_queue */
};

static struct {
    int count; /* atomic */
    Queue *queues[MAX_QUEUES];
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
    for (int i = 0; i < count; i++) {
        if (strcmp(table.queues[i]->device, device) == 0) return table.queues[i];
    }
    /* The last two places are for the devices that everybody uses. */
    int is_plain = strcmp(device, "CPU") == 0 || strcmp(device, "GPU") == 0;
    if (count >= MAX_QUEUES - (is_plain ? 0 : 2) || strlen(device) >= sizeof(table.queues[0]->device)) return NULL;

    Queue *queue = RedisModule_Calloc(1, sizeof(Queue) + options.engine.threads_per_queue * sizeof(queue->workers[0]));
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->pushed, NULL);
    strcpy(queue->device, device);
    table.queues[count] = queue;
    __atomic_store_n(&table.count, count + 1, __ATOMIC_RELEASE);
    return queue;
}

void queue_push(Queue *queue, Run *run) {
    run->next = NULL;
    pthread_mutex_lock(&queue->mutex);
    if (queue->last) {
        queue->last->next = run;
    } else {
        queue->first = run;
    }
    queue->last = run;
    pthread_cond_signal(&queue->pushed);
    pthread_mutex_unlock(&queue->mutex);
}

/* Takes up to max runs off the queue as a linked list; waits while there are none. */
static Run *take(Queue *queue, int max) {
    pthread_mutex_lock(&queue->mutex);
    while (queue->first == NULL) pthread_cond_wait(&queue->pushed, &queue->mutex);
    Run *first = queue->first, *last = first;
    for (int n = 1; n < max && last->next; n++) last = last->next;
    queue->first = last->next;
    if (queue->first == NULL) queue->last = NULL;
    pthread_mutex_unlock(&queue->mutex);
    last->next = NULL;
    return first;
}

int bridge_take_runs(Queue *queue, int worker, Run **runs, int max) {
    if (!queue->workers[worker].started) {
        pthread_getcpuclockid(pthread_self(), &queue->workers[worker].cpu_clock);
        __atomic_store_n(&queue->workers[worker].started, 1, __ATOMIC_RELEASE);
    }
    int count = 0;
    while (count == 0) {
        Run *next;
        for (Run *run = take(queue, max); run; run = next) {
            next = run->next;
            if (run_is_waiting(run)) {
                runs[count++] = run;
            } else {
                run_unref(run);
            }
        }
    }
    return count;
}
