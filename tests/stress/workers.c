/* workers.c - a loader and workers in C, in the place of redisai/ (workers.h).
 *
 * They use the functions of bridge.h as Python does: take, begin, run or gather and scatter, finish, run or push what
 * became ready. Half of what the loader compiles is run by C where that can be, with a library that is made here.
 * Chance decides where Python has a choice. Locks: batcher.mutex, one a queue, under which only the sweep and the
 * setting of the queue's moment are called; and counting.mutex, a leaf. */
#include "workers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bridge.h"
#include "engine/interpreter.h"
#include "engine/options.h"
#include "redis.h"
#include "run/queue.h"
#include "values/dtype.h"
#include "values/runnable.h"

#define MAX_SESSIONS (1 << 20)
#define MAX_QUEUES 8
#define MAX_LANES 512
#define MAX_LANE 4096
#define MAX_INPUTS 8
#define MOST_READY 4 /* few, so that some go to their queues by themselves */

/* What a model or script compiles to; its figures must be those of AI.INFO in the end. */
typedef struct Session {
    int added;
    int cost;
    int failing; /* permille */
    int kind;
    Direct direct;
    int64_t calls, errors, samples, executions;
} Session;

static Session *sessions[MAX_SESSIONS]; /* by id; atomic */

static struct {
    pthread_mutex_t mutex;
    EngineCounts counts; /* and the figures of sessions */
} counting = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Ops of one lane, the oldest first. */
typedef struct Lane {
    uint64_t batch_key;
    Op *ops[MAX_LANE];
    int n;
} Lane;

typedef struct Batcher {
    struct Queue *queue;
    pthread_mutex_t mutex;
    Lane *lanes[MAX_LANES];
    int n;
    int64_t moment; /* that the queue has been told */
} Batcher;

static Batcher batchers[MAX_QUEUES]; /* the loader's, and each for the workers of its queue */
static int nbatchers;

typedef struct Worker {
    Batcher *batcher;
    int index;
    Random random;
    Op *next[MAX_LANE]; /* ops that became ready and are run here */
    int nnext;
} Worker;

static uint64_t first_seed;

void engine_seed(uint64_t seed) { first_seed = seed; }

EngineCounts engine_counts(void) {
    pthread_mutex_lock(&counting.mutex);
    EngineCounts counts = counting.counts;
    pthread_mutex_unlock(&counting.mutex);
    return counts;
}

static Session *session_of(const Op *op) {
    Session *session = __atomic_load_n(&sessions[op->id], __ATOMIC_ACQUIRE);
    if (session == NULL) FATAL("an op came for a model that is not loaded, or has been dropped");
    return session;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void work(const Session *session) {
    if (session->cost) usleep(session->cost);
}

static int int64(void) { return dtype_from_name("INT64", strlen("INT64")); }

static const Tensor *input_of(const Op *op, int index) {
    const Tensor *tensor = op->inputs[index];
    if (tensor == NULL) FATAL("an op was begun before all of its inputs were there");
    CHECK(tensor->dtype == int64() && tensor->ndim == 2);
    return tensor;
}

static void add_numbers(int64_t *sums, const int64_t *numbers, int64_t length) {
    for (int64_t i = 0; i < length; i++) sums[i] += numbers[i];
}

/* 0, or -1 after failing the op. */
static int run_op(Worker *worker, Op *op, const Session *session) {
    if (chance(&worker->random, session->failing)) {
        bridge_fail(op, "it\nfailed");
        return -1;
    }
    const Tensor *first = input_of(op, 0);
    int64_t *sums = calloc(first->length, sizeof(*sums));
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = input_of(op, i);
        CHECK(tensor->length == first->length);
        const int64_t *numbers = (const int64_t *)tensor->data;
        int64_t *copy = NULL;
        if (tensor->owner) { /* not aligned */
            copy = malloc(tensor->size);
            numbers = memcpy(copy, tensor->data, tensor->size);
        }
        add_numbers(sums, numbers, tensor->length);
        free(copy);
    }
    for (int64_t i = 0; i < first->length; i++) sums[i] += session->added;
    int failed = 0;
    for (int k = 0; k < op->noutputs && !failed; k++) {
        failed = bridge_set_output(op, k, int64(), 2, first->shape, sums, first->length * sizeof(*sums), NULL);
        for (int64_t i = 0; i < first->length; i++) sums[i]++;
    }
    free(sums);
    if (failed) FATAL("an output was refused");
    return 0;
}

static void count_op(Session *session, const Op *op, int failed, int executions) {
    pthread_mutex_lock(&counting.mutex);
    session->calls++;
    session->errors += failed;
    session->executions += executions;
    if (!failed && op->runnable->kind == KIND_MODEL) session->samples += op->outputs[0]->shape[0];
    counting.counts.ops++;
    counting.counts.failed += failed;
    pthread_mutex_unlock(&counting.mutex);
}

/* What became ready is run here next where it is for this queue, else pushed. */
static void place(Worker *worker, Op **ready, int nready) {
    for (int i = 0; i < nready; i++) {
        Op *op = ready[i];
        CHECK(op->rows == 0);
        int here = runnable_is_ready(op->runnable) && op->runnable->queue == worker->batcher->queue;
        if (here && worker->nnext < MAX_LANE && !chance(&worker->random, 200)) {
            worker->next[worker->nnext++] = op;
        } else {
            bridge_push_ops(&op, 1);
        }
    }
}

/* Hands ops back. */
static void finish(Worker *worker, Op **ops, int n) {
    Op *ready[MOST_READY];
    int most = below(&worker->random, MOST_READY + 1);
    int nready = bridge_finish_ops(ops, n, ready, most);
    CHECK(nready <= most);
    place(worker, ready, nready);
}

/* ---- a library that C can run (OnnxApi) -------------------------------------------------------------------------- */

typedef struct Value {
    int64_t shape[2];
    int64_t *data;
    int is_owned;
} Value;

static _Thread_local Random library_random;

static void *new_value(const void *memory, void *data, size_t size, const int64_t *shape, size_t ndim, int type,
                       void **value) {
    CHECK(ndim == 2 && size == shape[0] * shape[1] * sizeof(int64_t));
    Value *made = calloc(1, sizeof(*made));
    *made = (Value){.shape = {shape[0], shape[1]}, .data = data};
    *value = made;
    return NULL;
}

static void *library_run(void *given, const void *options, const char *const *input_names, const void *const *inputs,
                         size_t ninputs, const char *const *output_names, size_t noutputs, void **outputs) {
    Session *session = given;
    CHECK(options != NULL);
    work(session);
    if (chance(&library_random, session->failing)) return "it\nfailed";
    const Value *first = inputs[0];
    int64_t length = first->shape[0] * first->shape[1];
    for (size_t k = 0; k < noutputs; k++) {
        Value *sum = outputs[k] = calloc(1, sizeof(*sum));
        *sum = (Value){.shape = {first->shape[0], first->shape[1]}, .is_owned = 1};
        sum->data = calloc(length, sizeof(int64_t));
        for (size_t i = 0; i < ninputs; i++) add_numbers(sum->data, ((const Value *)inputs[i])->data, length);
        for (int64_t i = 0; i < length; i++) sum->data[i] += session->added + (int64_t)k;
    }
    pthread_mutex_lock(&counting.mutex);
    session->calls++;
    session->executions++;
    if (session->kind == KIND_MODEL) session->samples += first->shape[0];
    counting.counts.ops++;
    pthread_mutex_unlock(&counting.mutex);
    return NULL;
}

static void *info_of(const void *value, void **info) {
    *info = (void *)value;
    return NULL;
}

static void *type_of(const void *info, int *type) {
    *type = bridge_dtype(int64())->onnx;
    return NULL;
}

static void *ndim_of(const void *info, size_t *ndim) {
    *ndim = 2;
    return NULL;
}

static void *shape_of(const void *info, int64_t *shape, size_t ndim) {
    CHECK(ndim == 2);
    memcpy(shape, ((const Value *)info)->shape, sizeof(((const Value *)info)->shape));
    return NULL;
}

static void *length_of(const void *info, size_t *length) {
    *length = ((const Value *)info)->shape[0] * ((const Value *)info)->shape[1];
    return NULL;
}

static void *data_of(void *value, void **data) {
    *data = ((Value *)value)->data;
    return NULL;
}

static const char *text_of(const void *status) { return status; }
static void keep(void *unused) {}

static void free_value(void *value) {
    if (((Value *)value)->is_owned) free(((Value *)value)->data);
    free(value);
}

static void *new_options(void **options) {
    *options = calloc(1, 1);
    return NULL;
}

static void *terminate(void *options) { return NULL; }

static const OnnxApi library = {.CreateTensorWithDataAsOrtValue = new_value,
                                .Run = library_run,
                                .GetTensorTypeAndShape = info_of,
                                .GetTensorElementType = type_of,
                                .GetDimensionsCount = ndim_of,
                                .GetDimensions = shape_of,
                                .GetTensorShapeElementCount = length_of,
                                .GetTensorMutableData = data_of,
                                .GetErrorMessage = text_of,
                                .ReleaseTensorTypeAndShapeInfo = keep,
                                .ReleaseValue = free_value,
                                .ReleaseStatus = keep,
                                .CreateRunOptions = new_options,
                                .ReleaseRunOptions = free,
                                .RunOptionsSetTerminate = terminate};

static Direct *direct_of_session(Session *session) {
    session->direct = (Direct){.api = &library,
                               .session = session,
                               .backend = BACKEND_ONNX,
                               .ninputs = ANY_COUNT,
                               .noutputs = ANY_COUNT,
                               .rows = ANY_ROWS};
    for (int i = 0; i < DIRECT_MAX; i++) session->direct.types[i] = ANY_NUMBERS;
    return &session->direct;
}

/* What C has left of the ops that it ran. */
static void settle(Worker *worker, Taken *taken) {
    place(worker, taken->ready, taken->nready);
    Op *op = taken->failed;
    if (op == NULL) return;
    CHECK(strcmp(taken->error, "it\nfailed") == 0);
    bridge_free(taken->error);
    Session *session = session_of(op);
    int failed = chance(&worker->random, 500) || run_op(worker, op, session) == -1;
    if (failed) bridge_fail(op, "it\nfailed");
    op->duration = session->cost;
    count_op(session, op, failed, 1);
    finish(worker, &op, 1);
}

/* Runs ops one by one, all of them begun. */
static void run_begun(Worker *worker, Op **ops, int n) {
    int returned = 0;
    for (int i = 0; i < n; i++) {
        Session *session = session_of(ops[i]);
        work(session);
        int failed = run_op(worker, ops[i], session) == -1;
        ops[i]->duration = session->cost;
        count_op(session, ops[i], failed, 1);
        if (chance(&worker->random, 500)) {
            finish(worker, ops + returned, i + 1 - returned);
            returned = i + 1;
        }
    }
    if (returned < n) finish(worker, ops + returned, n - returned);
}

static void run_plain(Worker *worker, Op **ops, int n) {
    if (chance(&worker->random, 500)) {
        run_begun(worker, ops, bridge_begin_ops(ops, n));
        return;
    }
    for (int i = 0; i < n; i++) {
        Op *one = ops[i];
        if (bridge_begin_ops(&one, 1)) run_begun(worker, &one, 1);
    }
}

/* Whether they can run as one; what may differ in a lane is how many outputs are asked for. */
static int check_batch(Op **ops, int n) {
    for (int i = 0; i < n; i++) {
        CHECK(ops[i]->batch_key == ops[0]->batch_key && ops[i]->id == ops[0]->id);
        CHECK(ops[i]->ninputs == ops[0]->ninputs);
        if (ops[i]->noutputs != ops[0]->noutputs) return 0;
        for (int k = 0; k < ops[i]->ninputs; k++) {
            CHECK(input_of(ops[i], k)->shape[1] == input_of(ops[0], k)->shape[1]);
            CHECK(input_of(ops[i], k)->shape[0] == ops[i]->rows);
        }
    }
    return 1;
}

static void count_batch(int n) {
    pthread_mutex_lock(&counting.mutex);
    counting.counts.batches++;
    counting.counts.batched += n;
    pthread_mutex_unlock(&counting.mutex);
}

/* The library counts a batch as one op. */
static int run_batch_in_c(Session *session, Op **ops, int n) {
    char *error;
    if (!bridge_run_batch(ops, n, &error)) {
        if (error) CHECK(strcmp(error, "it\nfailed") == 0);
        bridge_free(error);
        return 0;
    }
    pthread_mutex_lock(&counting.mutex);
    session->calls += n - 1;
    counting.counts.ops += n - 1;
    pthread_mutex_unlock(&counting.mutex);
    return 1;
}

static void run_batch_here(Worker *worker, Session *session, Op **ops, int n) {
    work(session);
    int64_t shape[2] = {0, input_of(ops[0], 0)->shape[1]};
    for (int i = 0; i < n; i++) shape[0] += ops[i]->rows;
    int64_t length = shape[0] * shape[1];
    uint64_t size = length * sizeof(int64_t);
    int fails = chance(&worker->random, session->failing);
    if (!fails) {
        int64_t *sums = calloc(1, size), *gathered = malloc(size);
        for (int i = 0; i < ops[0]->ninputs; i++) {
            if (bridge_gather(ops, n, i, gathered, size) == -1) FATAL("ops of one lane do not fit together");
            add_numbers(sums, gathered, length);
        }
        for (int64_t i = 0; i < length; i++) sums[i] += session->added;
        for (int k = 0; k < ops[0]->noutputs; k++) {
            if (bridge_scatter(ops, n, k, int64(), 2, shape, sums, size) == -1) FATAL("an output was refused");
            for (int64_t i = 0; i < length; i++) sums[i]++;
        }
        free(sums);
        free(gathered);
    }
    bridge_batch_ran(ops, n, session->cost);
    for (int i = 0; i < n; i++) {
        if (fails) bridge_fail(ops[i], "it failed");
        count_op(session, ops[i], fails, i == 0);
    }
}

/* Two ops or more, all of them begun. */
static void run_batch(Worker *worker, Op **ops, int n) {
    if (!check_batch(ops, n)) {
        run_begun(worker, ops, n);
        return;
    }
    Session *session = session_of(ops[0]);
    if (!run_batch_in_c(session, ops, n)) run_batch_here(worker, session, ops, n);
    count_batch(n);
    int half = chance(&worker->random, 300) ? n / 2 : 0;
    if (half) finish(worker, ops, half);
    finish(worker, ops + half, n - half);
}

/* ---- batching ---------------------------------------------------------------------------------------------------- */

static const Model *model_of(const Op *op) { return (const Model *)op->runnable; }

static void add_to_batcher(Batcher *batcher, Op *op) {
    CHECK(op->rows > 0 && op->rows < model_of(op)->limits.batchsize && op->runnable->queue == batcher->queue);
    int i = 0;
    while (i < batcher->n && batcher->lanes[i]->batch_key != op->batch_key) i++;
    if (i == batcher->n) {
        CHECK(i < MAX_LANES);
        batcher->lanes[batcher->n++] = calloc(1, sizeof(Lane));
        batcher->lanes[i]->batch_key = op->batch_key;
    }
    Lane *lane = batcher->lanes[i];
    CHECK(lane->n < MAX_LANE);
    lane->ops[lane->n++] = op;
}

static void sweep(Lane *lane) {
    int kept = bridge_sweep_ops(lane->ops, lane->n);
    CHECK(kept <= lane->n);
    pthread_mutex_lock(&counting.mutex);
    counting.counts.swept += lane->n - kept;
    pthread_mutex_unlock(&counting.mutex);
    lane->n = kept;
}

static int64_t deadline_of(const Lane *lane) {
    const Model *model = model_of(lane->ops[0]);
    return model->limits.minbatchtimeout ? lane->ops[0]->arrival + model->limits.minbatchtimeout * 1000000 : 0;
}

static int is_ready(Lane *lane, int64_t now) {
    if (lane->n == 0) return 0;
    const Model *model = model_of(lane->ops[0]);
    int64_t least =
        model->limits.minbatchsize < model->limits.batchsize ? model->limits.minbatchsize : model->limits.batchsize;
    if (least == 0) return 1;
    int64_t deadline = deadline_of(lane), rows = 0;
    for (int i = 0; i < lane->n; i++) rows += lane->ops[i]->rows;
    return rows >= least || (deadline && now >= deadline);
}

/* What is to be done now and later. */
typedef struct Outlook {
    Lane *oldest; /* of the ready lanes, the one that has waited longest */
    int nready;
    int64_t deadline; /* 0: none */
} Outlook;

static Outlook look_at_lanes(Batcher *batcher) {
    Outlook outlook = {0};
    int64_t now = now_ns();
    for (int i = 0; i < batcher->n; i++) {
        Lane *lane = batcher->lanes[i];
        if (is_ready(lane, now) && model_of(lane->ops[0])->limits.minbatchsize) sweep(lane);
        if (lane->n == 0) {
            free(lane);
            batcher->lanes[i--] = batcher->lanes[--batcher->n];
        } else if (is_ready(lane, now)) {
            outlook.nready++;
            if (!outlook.oldest || lane->ops[0]->arrival < outlook.oldest->ops[0]->arrival) outlook.oldest = lane;
        } else if (deadline_of(lane) && (outlook.deadline == 0 || deadline_of(lane) < outlook.deadline)) {
            outlook.deadline = deadline_of(lane);
        }
    }
    return outlook;
}

/* Tells the queue when a worker has to come back. */
static void call_back(Batcher *batcher, Worker *worker, int64_t moment) {
    if (moment == batcher->moment && !chance(&worker->random, 50)) return;
    bridge_set_deadline(batcher->queue, moment);
    batcher->moment = moment;
}

/* Takes a batch, or part of a lane's. What is left is for the next worker to judge. */
static int take_batch(Batcher *batcher, Worker *worker, Op **ops) {
    Outlook outlook = look_at_lanes(batcher);
    Lane *lane = outlook.oldest;
    int n = 0;
    if (lane) {
        int64_t rows = 0, most = model_of(lane->ops[0])->limits.batchsize;
        while (n < lane->n && (n == 0 || rows + lane->ops[n]->rows <= most)) rows += lane->ops[n++]->rows;
        memcpy(ops, lane->ops, n * sizeof(*ops));
        lane->n -= n;
        memmove(lane->ops, lane->ops + n, lane->n * sizeof(*ops));
    }
    call_back(batcher, worker, outlook.nready > 1 || (lane && lane->n) ? 1 : outlook.deadline);
    return n;
}

static void run_batched(Worker *worker) {
    Op *ops[MAX_LANE];
    pthread_mutex_lock(&worker->batcher->mutex);
    int n = take_batch(worker->batcher, worker, ops);
    pthread_mutex_unlock(&worker->batcher->mutex);
    n = bridge_begin_ops(ops, n);
    if (n > 1 && !chance(&worker->random, 50)) {
        run_batch(worker, ops, n);
    } else if (n) {
        run_begun(worker, ops, n);
    }
}

static void *worker_main(void *data) {
    Worker *worker = data;
    Batcher *batcher = worker->batcher;
    library_random.state = worker->random.state + 1;
    Taken taken;
    for (;;) {
        int most = 1 + below(&worker->random, TAKE_PLAIN);
        memset(&taken, 0xAA, sizeof(taken));
        taken.op_ns = CHUNK_NS / most;
        taken.kept = taken.nready = 0;
        if (chance(&worker->random, 700)) {
            bridge_work(batcher->queue, worker->index, &taken, worker->nnext == 0);
            settle(worker, &taken);
        } else {
            queue_take(batcher->queue, worker->index, &taken, most, worker->nnext == 0);
        }
        CHECK(taken.nplain >= 0 && taken.nplain <= TAKE_PLAIN && taken.nbatched >= 0);
        CHECK(taken.nbatched <= TAKE_BATCHED);

        Op *plain[TAKE_PLAIN + MAX_LANE];
        pthread_mutex_lock(&batcher->mutex);
        if (taken.deadline_passed) batcher->moment = 0;
        for (int i = 0; i < taken.nbatched; i++) add_to_batcher(batcher, taken.batched[i]);
        if (taken.sweep) {
            for (int i = 0; i < batcher->n; i++) sweep(batcher->lanes[i]);
        }
        if (taken.nplain || worker->nnext) {
            /* Those may take their time: another worker is to look after the batches. */
            Outlook outlook = look_at_lanes(batcher);
            call_back(batcher, worker, outlook.nready ? 1 : outlook.deadline);
        }
        pthread_mutex_unlock(&batcher->mutex);
        memcpy(plain, worker->next, worker->nnext * sizeof(*plain));
        int nplain = worker->nnext;
        worker->nnext = 0;
        for (int i = 0; i < taken.nplain; i++) {
            CHECK(taken.plain[i]->rows == 0 && taken.plain[i]->runnable->queue == batcher->queue);
            plain[nplain++] = taken.plain[i];
        }
        int done = 0;
        if (nplain && chance(&worker->random, 500)) {
            taken.nready = 0;
            done = bridge_run_ops(batcher->queue, &taken, plain, nplain);
            settle(worker, &taken);
        }
        if (done < nplain) run_plain(worker, plain + done, nplain - done);
        run_batched(worker);
    }
    return NULL;
}

/* ---- the loader -------------------------------------------------------------------------------------------------- */

static struct Queue *open_queue(const char *device) {
    struct Queue *queue = bridge_open_queue(device);
    CHECK(queue && bridge_open_queue(device) == queue);
    for (int i = 0; i < nbatchers; i++) {
        if (batchers[i].queue == queue) return queue;
    }
    CHECK(nbatchers < MAX_QUEUES);
    Batcher *batcher = &batchers[nbatchers++];
    batcher->queue = queue;
    pthread_mutex_init(&batcher->mutex, NULL);
    for (int i = 0; i < threads_per_queue(); i++) {
        Worker *worker = calloc(1, sizeof(*worker));
        *worker = (Worker){.batcher = batcher, .index = i, .random.state = first_seed + 1000 * nbatchers + i};
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, worker_main, worker) == 0);
        pthread_detach(thread);
    }
    return queue;
}

static const char *load(Runnable *runnable) {
    CHECK(runnable->id < MAX_SESSIONS);
    if (sessions[runnable->id]) return NULL;
    char text[64] = "";
    if (runnable->kind == KIND_MODEL) {
        Piece *piece = ((Model *)runnable)->pieces;
        snprintf(text, sizeof(text), "%.*s", (int)piece->size, piece->data);
    } else {
        snprintf(text, sizeof(text), "%s", ((Script *)runnable)->source);
    }
    Session *session = calloc(1, sizeof(*session));
    if (sscanf(text, ENGINE_BLOB, &session->added, &session->cost, &session->failing) != 3) {
        free(session);
        return "no such model";
    }
    usleep(500);
    __atomic_store_n(&sessions[runnable->id], session, __ATOMIC_RELEASE);
    pthread_mutex_lock(&counting.mutex);
    counting.counts.loads++;
    pthread_mutex_unlock(&counting.mutex);
    session->kind = runnable->kind;
    bridge_ready(runnable, open_queue(runnable->device), NULL, runnable->id % 2 ? direct_of_session(session) : NULL);
    return NULL;
}

/* Nobody runs it any more: what was counted is final. */
static void drop(const Runnable *runnable) {
    Session *session = sessions[runnable->id];
    if (session == NULL) return;
    CHECK(runnable->state->stats.calls == session->calls);
    CHECK(runnable->state->stats.errors == session->errors);
    CHECK(runnable->state->stats.executions == session->executions);
    if (runnable->kind == KIND_MODEL) CHECK(runnable->state->stats.samples == session->samples);
    sessions[runnable->id] = NULL;
    free(session);
}

static void *loader_main(void *unused) {
    (void)unused;
    for (;;) {
        Job *job = bridge_next_job();
        const char *error = NULL;
        if (job->kind == JOB_LOAD) error = load(job->runnable);
        if (job->kind == JOB_DROP) drop(job->runnable);
        bridge_finish_job(job, error);
    }
    return NULL;
}

/* ---- in the place of src/engine/interpreter.c -------------------------------------------------------------------- */

const char *engine_wait_started(void) { return NULL; }
void engine_stay_mapped(void) {}
void engine_take_environment(void) {}
void bridge_engine_started(const char *error) { CHECK(error == NULL); }

/* An engine process is this program, too. */
int engine_find_python(RedisModuleCtx *ctx, char *python, size_t size) {
    (void)ctx;
    snprintf(python, size, "/proc/self/exe");
    return REDISMODULE_OK;
}

void engine_process(void) {
    first_seed = (uint64_t)now_ns();
    bridge_enter_process();
    bridge_serve();
    loader_main(NULL);
}

int engine_start(RedisModuleCtx *ctx) {
    (void)ctx;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, loader_main, NULL) == 0);
    pthread_detach(thread);
    return REDISMODULE_OK;
}
