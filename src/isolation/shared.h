/* shared.h - the memory and the messages between the server and an engine process.
 *
 * Ops and their tensors go through shared memory, all else (jobs for the loader, calls of scripts, log lines) through a
 * socket. The server believes nothing that it reads: the process runs models of strangers. It copies what it needs,
 * then checks the copy. The process believes the server.
 *
 *   server                                             engine process
 *     a request and its inputs in the server's stretch
 *     slot index into `submissions`, wake  ──────────▶  op of the queue, run by a worker
 *     outputs become tensors  ◀──────────  slot index into `completions`, wake: the result, in the process's stretch
 *     acked = ticket  ────────────────────────────────▶ the process may free the result
 */
#pragma once

#include <stdint.h>

#include "engine/running.h"
#include "isolation/wire.h"
#include "values/backend.h"

#define SLOTS 65536 /* ops at once; the server keeps more waiting */

/* The ticket is new for each op that a slot has: nobody takes a later op for an earlier one. */
typedef struct Slot {
    int32_t word;     /* atomic, by both: the ticket, with OpStatus in its low bits (run/state.h) */
    int32_t acked;    /* atomic, by the server: the ticket of the latest op whose result it has read */
    uint64_t request; /* by the server: offset in its stretch, and size */
    uint64_t request_size;
    int64_t priority;
    uint64_t result; /* by the process, like the rest: offset in its stretch, and size */
    uint64_t result_size;
} Slot;

#define RUNNING_RECORDS 33 /* of the loader and of the first workers */

#define TICKET_STEP 8 /* statuses fit below */
#define TICKET_MASK (~(TICKET_STEP - 1))

typedef struct Shared {
    uint32_t submitted;      /* atomic, by the server: how many indexes were put into submissions */
    uint32_t unwanted;       /* atomic, by the server: how many ops became unwanted */
    uint32_t refused;        /* atomic, by the server: how often a limit has refused a run */
    int64_t full;            /* atomic, by the server: and of which model the last one was, or ALL_MODELS */
    uint32_t server_sleeps;  /* atomic: the event loop needs an event to see completions */
    uint32_t process_sleeps; /* atomic: a worker waits for new ops; a futex */
    uint32_t is_idle;        /* atomic: the server has nothing to run, so the process may give memory back */
    uint32_t completed;      /* atomic, by the process: how many indexes were put into completions */
    uint64_t dying;          /* by the process: id of the runnable whose run has raised the signal that ends it */
    OnnxFigures figures;     /* by the process, like the next */
    RunningRecord running[RUNNING_RECORDS];
    uint32_t submissions[SLOTS];
    uint32_t completions[SLOTS];
    Slot slots[SLOTS];
} Shared;

/* The stretches follow. Memory is taken only for what is written. */
#define STRETCH (64ULL << 30)
#define SHARED_SIZE ((sizeof(Shared) + 4095) / 4096 * 4096)
#define SHARED_TOTAL (SHARED_SIZE + 2 * STRETCH)

static inline char *servers_stretch(Shared *shared) { return (char *)shared + SHARED_SIZE; }
static inline char *process_stretch(Shared *shared) { return (char *)shared + SHARED_SIZE + STRETCH; }

static inline uint64_t align64(uint64_t size) { return (size + 63) & ~63ULL; }

/* A request is: id of the runnable, arrival, numbers of inputs and outputs; of each input dtype, dimensions, offset and
 * size of its data, which follow the request; for scripts function, keys, args. A result is what
 * inside_ops.c writes.
 *
 * Messages: length of the payload and kind, each 8 bytes, then the payload. */
enum {
    /* from the server */
    MESSAGE_START,  /* options, backends path, paths of backends that options name, device: the first message */
    MESSAGE_LOAD,   /* backends path; id and definition of a runnable: compile it. Answered by DONE */
    MESSAGE_IMPORT, /* backends path; backend, path. Answered by DONE */
    MESSAGE_DROP,   /* id */
    MESSAGE_LIMITS, /* id and limits of a model that the process has compiled */
    MESSAGE_REPLY,  /* call number, reply */
    /* from the process */
    MESSAGE_READY,   /* error, or "" */
    MESSAGE_DONE,    /* error, or ""; inputs, outputs; versions of backends */
    MESSAGE_CALL,    /* call number, slot, ticket, words */
    MESSAGE_HOLD,    /* call number, slot, ticket, key. Answered by REPLY: id of the model as an integer, or an error */
    MESSAGE_RELEASE, /* call number of the HOLD, duration, samples, failed, is_direct */
    MESSAGE_LOG      /* level, text */
};

#define HEADER_SIZE 16

/* The descriptors of the process: the socket, the shared memory, the pipe to the server's event loop, the one by which
 * its parent tells how it ended. */
#define FD_SOCKET 3
#define FD_MEMORY 4
#define FD_EVENT 5
#define FD_STATUS 6
