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
    Op *op;                 /* NULL: the slot is free */
    uint64_t request, size; /* the block in the server's stretch */
    int32_t number;
    int32_t is_large;      /* the carrier reads the result, and nobody else */
    int32_t is_calling;    /* the carrier's, down to is_overdue: the script waits for the server */
    int32_t has_called;    /* the script may have written */
    int64_t running_since; /* when the carrier first saw that it is begun, without its calls; 0: it is not */
    int64_t called;        /* when the script's open call came */
    int32_t is_overdue;
    uint32_t next_free;
} Ticket;

/* Ops linked by state->next. */
typedef struct OpList {
    Op *first, *last;
} OpList;

/* Why a process has ended. */
typedef struct Death {
    enum { DIED, TIMED_OUT, LOAD_TIMED_OUT, KILLED } verdict; /* KILLED: by AI.KILL. DIED: all else */
    uint64_t guilty;  /* DIED: who raised the signal; KILLED: what was to end, or whose runs; 0: unknown */
    int is_told;      /* DIED: it tells what it worked at */
    char reason[256]; /* empty: the carrier has not ended the process */
} Death;

typedef struct Process {
    Consumer consumer; /* first: what the queue knows */
    Queue *queue;
    char device[16];
    Shared *shared;    /* always at this address. Each new process gets new memory there */
    int event_pipe[2]; /* tells the event loop of results. A process can open both ends, so each has its own */
    JobQueue jobs;

    /* Guards all down to `calls`: a leaf, held for the copying of SMALL bytes at most. */
    pthread_mutex_t mutex;
    ProcessState state;
    Arena arena;
    Ticket *tickets;
    uint32_t first_free;
    int32_t last_number;
    uint32_t top;      /* slots from here on have not been used */
    uint32_t used;     /* slots that are */
    int is_watched;    /* the carrier looks at them now and then */
    int is_clearing;   /* it gives the memory back to the kernel, and no op gets any */
    int64_t last_used; /* when the last slot in use was freed, ns */
    uint64_t to_kill;  /* id that isolation_kill() wants to end; 0: none */
    pid_t pid;         /* of the process that the server has started, the parent of the engine; 0: none */
    pid_t engine;      /* 0: unknown */
    int64_t started;   /* ns; names this start, too */
    int64_t starts, deaths;
    char last_death[64];
    uint32_t submitted;
    uint32_t completed;                     /* how many completions were seen */
    int is_lying;                           /* a completion made no sense: the carrier shall end the process */
    RedisModuleDict *guests;                /* by id: models of other devices that it has compiled for scripts */
    OpList pending[PRIORITIES];             /* for the carrier: large, or there was no room */
    uint32_t *large;                        /* slots whose results the carrier shall read */
    uint32_t nlarge, nread, large_capacity; /* nread: how many of them it has read */
    struct RemoteCall *answered;            /* calls of scripts that the main thread has performed */
    uint64_t *dropped;                      /* ids that the process may forget */
    uint32_t ndropped, dropped_capacity;
    Writer scratch;

    /* The carrier's. */
    int wake_fd, socket, status_fd, memory_fd, pidfd;
    LoaderJob *job;          /* that the process works on */
    int64_t job_since;       /* ns */
    struct RemoteCall *held; /* models that scripts hold */
    int nheld;
    int lines;          /* that it has written into the log since the first of this hour */
    int64_t first_line; /* ns */
    int imported;       /* how many of the imports of all processes it has */
    int failures;       /* starts in a row that have failed */
    int is_settled;     /* under table.mutex: the first start has succeeded or failed */
    Death death;
} Process;

/* ---- process.c --------------------------------------------------------------------------------------------------- */

/* There is something for the carrier. Any thread. */
void process_wake_carrier(Process *process);

/* The carrier ends the process. The first reason stays. */
void process_end(Process *process, int verdict, const char *why);

/* The process is up: asks its parent which it is. Carrier. */
void process_learn_engine(Process *process);

/* Imports that all processes shall have, by number; NULL: there are no more. Any thread. */
typedef struct Import {
    int32_t backend;
    char *path;
    const Process *by; /* it has the import already, if this is still its start number */
    int64_t start;
} Import;
const Import *process_import(int index);
void process_add_import(const Process *by, int32_t backend, const char *path);

/* ---- messages.c: the carrier and the process talk ---------------------------------------------------------------- */

/* Sends MESSAGE_START. */
void messages_start(Process *process);

/* Reads one message. Returns -1 when the process is no more. */
int messages_take(Process *process);

/* Reads all messages that have come. */
void messages_drain(Process *process);

/* Sends what there is to send: answers of calls, dropped ids, jobs. */
void messages_send(Process *process);

/* The process has ended: its job fails with this text, and models that its scripts held are released. */
void messages_abandon(Process *process, const char *error);

/* Jobs that wait fail with this text. */
void messages_refuse_jobs(Process *process, const char *error);

/* ---- carrier.c: ops. Each locks the mutex itself ----------------------------------------------------------------- */

extern const Consumer carrier_consumer;
void carrier_init(Process *process);

/* The carrier: sends what is pending, reads large results. */
void carrier_work(Process *process);

/* The carrier: ends the process where an op has taken too long, or is to be killed. Returns whether it must look again
 * soon. */
int carrier_watch(Process *process);

/* Main thread: ends the ops whose small results have come. */
void carrier_receive(Process *process);

/* The carrier: nothing is left of the process. Ops that it had begun fail, but for those that can be run again where
 * the server has ended it on purpose. The others wait for the next. */
void carrier_abandon(Process *process);

/* A model or script under which so many processes have died is set aside: it fails, until it is released. */
#define MAX_DEATHS 3
int carrier_is_set_aside(const Runnable *runnable);

/* The carrier: whether the process may have died of this runnable. */
int carrier_died_under(const Process *process, uint64_t id);

/* The carrier: the process has died under this runnable. */
void carrier_count_death(Process *process, Runnable *runnable);

/* The script's op in this slot, with its run held; NULL where the process runs no such op. Carrier. */
Op *carrier_find_op(Process *process, uint64_t slot, int32_t ticket);

/* The script of this op waits for the server, or goes on. Returns -1 where it waits already. Carrier. */
int carrier_note_call(Process *process, uint64_t slot, int32_t ticket, int is_open);

/* Whether it runs or compiles what has this id now. Any thread. */
int carrier_runs(Process *process, uint64_t id);

/* What this process has compiled. Any thread. */
int carrier_has_compiled(Process *process, const Runnable *runnable);
void carrier_note_compiled(Process *process, Runnable *runnable);

/* Whether its device is that of the process. */
int carrier_is_own(const Process *process, const Runnable *runnable);
