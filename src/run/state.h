/* state.h - a run and its ops: what they hold, and the states that any thread may ask for.
 *
 * A run is what one command executes: its ops, and their tensors in numbered slots. AI.MODELEXECUTE is a run of one op.
 *
 * The client holds the run (the main thread, until the blocked client is freed), and so does each op on its way
 * (loader, queue, worker). Whoever moves `state` away from RUN_WAITING, by one compare-and-swap, unblocks the client.
 * So exactly one of these does: the last op, the timer, the disconnection, CLIENT UNBLOCK, AI.KILL.
 *
 * An op is in one place at a time: with the loader, in a queue, or with a worker. `status` moves by compare-and-swap.
 * So when its run fails or times out, an op is either begun or skipped. Whoever has a skipped op drops it. */
#pragma once

#include "bridge.h"
#include "run/waiter.h"

typedef enum {
    RUN_WAITING, /* nobody has answered the client yet */
    RUN_DONE,
    RUN_TIMEDOUT,
    RUN_KILLED, /* by AI.KILL RUN */
    RUN_GONE    /* the client has disconnected, or CLIENT UNBLOCK has answered it */
} RunState;

typedef enum {
    OP_WAITING, /* for outputs of other ops of its run */
    OP_QUEUED,  /* on its way to a worker, who has not begun it */
    OP_RUNNING,
    OP_DONE,
    OP_FAILED,
    OP_SKIPPED,  /* another op of its run failed before it began */
    OP_UNAWAITED /* only as an engine process sees it: it runs, and nobody waits for it any more */
} OpStatus;

typedef struct OpState {
    int32_t status;      /* atomic, OP_... */
    int32_t waits_for;   /* atomic: inputs that other ops have not given yet */
    int32_t is_chained;  /* other ops give some of its inputs */
    int32_t batch_total; /* rows of the batch it ran in; -1: another op counts that execution; 0: it ran alone */
    int32_t is_held;     /* atomic: the batcher has it (run/queue.c) */
    int32_t nmembers;    /* of an op that stands for the ops of a batch: these get the rows of its outputs */
    Op **members;        /* NULL: it stands for itself */
    /* Of an op that is with an engine process (isolation/): the word of shared memory by which both processes decide
     * who begins or skips it: the ticket with the status in its low bits. NULL: the op is not with one. */
    int32_t *shared;
    int32_t ticket;
    int32_t is_waiting; /* counted by run/limits.c; whoever has the op ends that */
    int64_t bytes;      /* of the inputs that it waits with */
    int64_t queued;     /* ns, when it went to its queue */
    int64_t begun;      /* ns */
    uint64_t hash;      /* of the inputs: its outputs shall be kept (values/cache.h); 0: not */
    char *error;
    Op *next; /* in its queue */
} OpState;

/* An input of an op that is the output of another. */
typedef struct Use {
    int32_t op;
    int32_t input;
    int32_t next; /* use of the same slot; -1: none */
} Use;

/* A tensor that becomes a key's value in the end, or that of a field of a hash. The strings are held until the client
 * is freed. */
typedef struct Save {
    RedisModuleString *key;
    RedisModuleString *field; /* NULL: the key is set */
    RedisModuleString *value; /* of the field, once the run has ended */
    int32_t form;             /* of the value (commands/hash_set.h) */
    int32_t slot;
} Save;

typedef struct Run {
    Waiter waiter; /* first: its client; waiter.write saves the outputs */
    uint64_t id;   /* which no model or script has */
    int32_t state; /* atomic, RUN_... */
    int32_t nops;
    Op *ops;
    Tensor **slots; /* references; an op's outputs lie one after another */
    int32_t nslots;
    int32_t failed;      /* atomic: an op failed, no other begins */
    int32_t active;      /* atomic: ops queued or running */
    int32_t refs;        /* atomic: one for the client, one for each op on its way */
    int32_t owns_args;   /* slots hold strings of the command: only the main thread may free the run */
    int32_t *first_uses; /* by slot, into uses; -1: none. NULL where there is one op */
    Use *uses;
    int32_t nuses;
    Tensor **next_input; /* where the inputs of the next op to be added go */
    uint64_t hashed;     /* bytes of inputs, to find what is kept of them */
    Save *saves;
    int32_t nsaves;
    int32_t nsteps;
    struct Step *steps; /* DAGs: the commands, for the reply */
    char *user;         /* scripts: the name of the user who called */
    Bytes routing;      /* DAGs: the value of ROUTING; data NULL: none */
    char *refusal;      /* why no output was saved, as a reply; NULL: they were */
    void *data;         /* of a run without a client, whoever submitted it */
    int32_t has_timer;
    uint64_t timer;
} Run;

static inline int run_is_waiting(const Run *run) {
    return __atomic_load_n(&run->state, __ATOMIC_ACQUIRE) == RUN_WAITING;
}

static inline int run_has_failed(const Run *run) { return __atomic_load_n(&run->failed, __ATOMIC_SEQ_CST); }
static inline int op_status(const Op *op) { return __atomic_load_n(&op->state->status, __ATOMIC_SEQ_CST); }

static inline int op_is_shared_as(const Op *op, int32_t status) {
    const int32_t *shared = __atomic_load_n(&op->state->shared, __ATOMIC_ACQUIRE);
    if (shared == NULL) return 1;
    int32_t ticket = __atomic_load_n(&op->state->ticket, __ATOMIC_RELAXED);
    return __atomic_load_n(shared, __ATOMIC_SEQ_CST) == (ticket | status);
}

/* Whether somebody should still begin it. */
static inline int op_is_wanted(const Op *op) {
    return op_status(op) == OP_QUEUED && run_is_waiting(op->run) && op_is_shared_as(op, OP_QUEUED);
}

/* Of an op that is with an engine process: nobody waits for its run any more (op.c). Any thread. */
void op_disown(Op *op);
