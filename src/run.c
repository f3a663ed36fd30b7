/* run.c - one execution of a model or script: from the command to the reply (run.h).
 *
 * Main thread: run_new, run_submit, the callbacks below. Loader and workers: run_forward and the bridge functions.
 * No locks; `state` and `refs` are atomic. */
#include "run.h"

#include <string.h>

#include "loader.h"
#include "queue.h"
#include "runnable.h"
#include "tensor.h"
#include "unblock.h"

Run *run_new(Runnable *runnable, int ninputs, int noutputs) {
    Run *run = RedisModule_Calloc(1, sizeof(Run) + ((size_t)ninputs + noutputs) * sizeof(Tensor *));
    run->runnable = runnable;
    run->id = runnable->id;
    run->variadic = -1;
    run->inputs = (Tensor **)(run + 1);
    run->outputs = run->inputs + ninputs;
    run->ninputs = ninputs;
    run->noutputs = noutputs;
    run->duration = -1;
    run->refs = 1;
    return run;
}

static void free_words(Bytes *words, int count) {
    for (int i = 0; i < count; i++) RedisModule_Free((char *)words[i].data);
    RedisModule_Free(words);
}

void run_unref(Run *run) {
    if (__atomic_sub_fetch(&run->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    for (int i = 0; i < run->ninputs; i++) {
        if (run->inputs[i]) tensor_unref(run->inputs[i]);
    }
    for (int i = 0; i < run->noutputs; i++) {
        if (run->outputs[i]) tensor_unref(run->outputs[i]);
    }
    runnable_unref(run->runnable);
    free_words(run->keys, run->nkeys);
    free_words(run->args, run->nargs);
    RedisModule_Free((char *)run->function);
    RedisModule_Free(run->user);
    RedisModule_Free(run->error);
    RedisModule_Free(run);
}

int run_is_waiting(const Run *run) {
    return __atomic_load_n(&run->state, __ATOMIC_ACQUIRE) == RUN_WAITING;
}

/* Ends the wait of the client for this reason, unless another reason came first. */
static void end_wait(Run *run, int state) {
    int waiting = RUN_WAITING;
    if (!__atomic_compare_exchange_n(&run->state, &waiting, state, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return;
    RedisModule_BlockedClientMeasureTimeEnd(run->blocked);
    if (state == RUN_DONE && run->error == NULL) {
        unblock_to_write(run->blocked, run);
    } else {
        RedisModule_UnblockClient(run->blocked, run);
    }
}

/* ---- the client's side, main thread ------------------------------------------------------------------------------ */

/* Redis 7.0 tells a disconnect callback nothing but the blocked client's handle, hence this table. Main thread only. */
#define BUCKETS 4096
static Run *blocked_runs[BUCKETS];

static Run **bucket_of(RedisModuleBlockedClient *blocked) {
    return &blocked_runs[((uintptr_t)blocked >> 6) % BUCKETS];
}

static void remember(Run *run) {
    Run **bucket = bucket_of(run->blocked);
    run->chained = *bucket;
    *bucket = run;
}

static void forget(Run *run) {
    Run **at = bucket_of(run->blocked);
    while (*at != run) at = &(*at)->chained;
    *at = run->chained;
}

static void client_gone(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked) {
    (void)ctx;
    Run *run = *bucket_of(blocked);
    while (run && run->blocked != blocked) run = run->chained;
    if (run) end_wait(run, RUN_GONE);
}

/* A timer of ours, not BlockClient's time-out: Redis looks at those only when its loop happens to turn, up to 100 ms
 * late on an idle server. */
static void time_is_up(RedisModuleCtx *ctx, void *data) {
    (void)ctx;
    Run *run = data;
    run->has_timer = 0;
    end_wait(run, RUN_TIMEDOUT);
}

static void client_freed(RedisModuleCtx *ctx, void *data) {
    Run *run = data;
    forget(run);
    if (run->has_timer) RedisModule_StopTimer(ctx, run->timer, NULL);
    run_unref(run);
}

int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, RedisModuleCmdFunc reply) {
    run->blocked = RedisModule_BlockClient(ctx, reply, NULL, client_freed, 0);
    if (run->blocked == NULL) {
        run_unref(run);
        return RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
    }
    RedisModule_SetDisconnectCallback(run->blocked, client_gone);
    RedisModule_BlockedClientMeasureTimeStart(run->blocked);
    remember(run);
    if (timeout) {
        run->has_timer = 1;
        run->timer = RedisModule_CreateTimer(ctx, timeout, time_is_up, run);
    }

    run->refs = 2;
    if (runnable_is_ready(run->runnable)) {
        queue_push(run->runnable->queue, run);
        return REDISMODULE_OK;
    }
    Job *job = job_new(JOB_FORWARD);
    job->runnable = runnable_ref(run->runnable);
    job->run = run;
    loader_post(job);
    return REDISMODULE_OK;
}

/* ---- the worker's side ------------------------------------------------------------------------------------------- */

static void give_back(Run *run) {
    if (run->duration >= 0) {
        int64_t samples = 0;
        if (run->error == NULL && run->noutputs && run->outputs[0]) {
            samples = run->outputs[0]->ndim ? run->outputs[0]->shape[0] : 1;
        }
        runnable_count_run(run->runnable, run->duration, samples, run->error != NULL);
    }
    end_wait(run, RUN_DONE);
    run_unref(run);
}

void run_forward(Run *run, const char *error) {
    if (!run_is_waiting(run)) {
        run_unref(run);
    } else if (error) {
        bridge_fail(run, error);
        give_back(run);
    } else {
        queue_push(run->runnable->queue, run);
    }
}

void bridge_give_back(Run **runs, int n) {
    for (int i = 0; i < n; i++) give_back(runs[i]);
}

void bridge_fail(Run *run, const char *message) {
    if (run->error == NULL) run->error = RedisModule_Strdup(message);
}

int bridge_set_output(Run *run, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size) {
    const char *error = "output has an impossible index, type or number of dimensions";
    if (size > bridge_max_tensor_bytes()) {
        error = "output exceeds the limit for one tensor (proto-max-bulk-len)";
    } else if (index >= 0 && index < run->noutputs && ndim >= 0 && ndim <= TENSOR_MAX_DIMS && dtype >= 0 &&
               dtype <= DTYPE_STRING) {
        Tensor *tensor = size < TENSOR_LARGE ? tensor_from_data(dtype, ndim, shape, data, size, &error)
                                             : tensor_from_string(dtype, ndim, shape,
                                                                  RedisModule_CreateString(NULL, data, size), &error);
        if (tensor) {
            if (run->outputs[index]) tensor_unref(run->outputs[index]);
            run->outputs[index] = tensor;
            return 0;
        }
    }
    bridge_fail(run, error);
    return -1;
}
