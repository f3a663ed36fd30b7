/* process.h - an engine process, as the server has it: one for each device.
 *
 * Each has a carrier, a thread that starts the process, sends and receives messages, and carries large tensors. The
 * main thread carries small ones itself: another thread between it and the worker would cost a client 40 us. */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "engine/jobs.h"
#include "isolation/arena.h"
#include "isolation/shared.h"
#include "run/queue.h"

#define SMALL (64 * 1024) /* bytes of all inputs, or of all outputs, that the main thread copies */

typedef enum { PROCESS_DOWN, PROCESS_STARTING, PROCESS_UP } ProcessState;

/* What the server knows of a slot. */
typedef struct Ticket {
    Op *op; /* NULL: the slot is free */
    uint64_t request, size; /* the block in the server's stretch */
    int32_t number;
    int32_t is_large; /* the carrier reads the result, and nobody else */
    int64_t running_since; /* when the carrier first saw that it runs; 0: it does not */
    uint32_t next_free;
} Ticket;

/* Ids of the runnables that the process has compiled: open addressing, 0 is empty. */
typedef struct IdSet {
    uint64_t *ids;
    uint64_t count, capacity; /* capacity: a power of two, or 0 */
} IdSet;

typedef struct Process {
    Consumer consumer; /* first: what the queue knows */
    Queue *queue;
    char device[16];
    Shared *shared; /* always at this address. Each new process gets new memory there */
    JobQueue jobs;

    /* Guards all down to `calls`: a leaf, held for the copying of SMALL bytes at most. */
    pthread_mutex_t mutex;
    ProcessState state;
    Arena arena;
    Ticket *tickets;
    uint32_t first_free;
    int32_t last_number;
    uint32_t submitted;
    uint32_t completed; /* how many completions were seen */
    IdSet compiled;
    Op *first_pending, *last_pending; /* for the carrier: large, or there was no room; linked by state->next */
    uint32_t *large;                  /* slots whose results the carrier shall read */
    uint32_t nlarge, large_capacity;
    struct RemoteCall *answered; /* calls of scripts that the main thread has performed */
    uint64_t *dropped;           /* ids that the process may forget */
    uint32_t ndropped, dropped_capacity;
    Writer scratch;

    /* The carrier's. */
    int wake_fd, socket, status_fd, memory_fd, pidfd;
    pid_t pid;
    LoaderJob *job;              /* that the process works on */
    struct RemoteCall *held;     /* models that scripts hold */
    int64_t started;             /* ns */
    int failures;                /* starts in a row that have failed */
    char death[256];             /* why the carrier has ended the process; empty: it has not */
} Process;

/* ---- process.c ------------------------------------------------------------------------------------------------------- */

/* Starts isolation: jobs go to engine processes. Main thread, at load, instead of engine_start(). */
int isolation_start(RedisModuleCtx *ctx);

/* There is something for the carrier. Any thread. */
void process_wake_carrier(Process *process);

/* ---- carrier.c: ops. Each locks the mutex itself --------------------------------------------------------------------- */

extern const Consumer carrier_consumer;
void carrier_init(Process *process);

/* The carrier: sends what is pending, reads large results. */
void carrier_work(Process *process);

/* Main thread: ends the ops whose small results have come. */
void carrier_receive(Process *process);

/* The carrier: nothing is left of the process. Ops that it had begun fail with this text, the others wait. */
void carrier_abandon(Process *process, const char *error);

/* The op in this slot, with its run held; NULL where the process should not know it. */
Op *carrier_find_op(Process *process, uint64_t slot, int32_t ticket);

int carrier_has_compiled(Process *process, uint64_t id);
void carrier_note_compiled(Process *process, uint64_t id, int is_compiled);
