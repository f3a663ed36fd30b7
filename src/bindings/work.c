/* work.c - runs what is pending (bindings.h). Main thread only.
 *
 * A write only makes its key pending. At the end of the iteration, a task reads the values of up to a batch of pending
 * keys into the rows of one run. Its results are written by the task that ends the run. Meanwhile other keys gather. So
 * the batches grow with the load, without any waiting, and a key that changes all the time runs as often as the worker
 * can, not as often as it changes. At most one run has a key: so an older result never overwrites a newer one. */
#include <stdio.h>
#include <string.h>

#include "bindings/bindings.h"
#include "isolation/process.h"
#include "redis/clock.h"
#include "redis/command.h"
#include "redis/event_loop.h"
#include "values/model.h"
#include "values/script.h"
#include "values/tensor.h"

#define DEFAULT_BATCH 32 /* rows, where the model has no BATCHSIZE */
#define MAX_BATCH 4096
#define PAUSE_MS 100
#define SLICE_NS 250000    /* of all this in one iteration: clients wait for so long */
#define BATCHES_AGAIN_S 10 /* then a model that took no batch gets one again: it may have failed for other reasons */
#define FILL_AHEAD 4096    /* pending keys: with more, AI.BINDRUN waits */

static struct {
    Task task;
    int is_posted, has_timer;
    int turn;    /* the number of the binding that is the first to go on */
    int64_t end; /* ns: of the slice */
    RedisModuleCtx *ctx;
} work;

static void go_on(RedisModuleCtx *ctx, Task *task);

void work_wake(void) {
    if (work.is_posted) return;
    work.is_posted = 1;
    work.task = (Task){.perform = go_on};
    event_loop_post(&work.task);
}

static void timer_ended(RedisModuleCtx *ctx, void *unused) {
    work.has_timer = 0;
    work_wake();
}

static void set_timer(void) {
    if (work.has_timer) return;
    work.has_timer = 1;
    RedisModule_CreateTimer(work.ctx, PAUSE_MS, timer_ended, NULL);
}

/* What tasks before this one have taken of the iteration is gone. Returns the time. */
static int64_t begin_slice(void) {
    int64_t now = monotonic_ns();
    work.end = now + SLICE_NS - event_loop_add_stall(0);
    return now;
}

static void end_slice(int64_t begun) { event_loop_add_stall(monotonic_ns() - begun); }
int work_has_time(void) { return monotonic_ns() < work.end; }

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Logs it where it is of another kind than the last one, once a second at most. */
static void set_error(Binding *b, RedisModuleString *key, char *error) {
    int64_t now = monotonic_ns();
    int is_new = b->last_error == NULL || strcmp(b->last_error, error) != 0;
    if (is_new && (b->logged == 0 || now - b->logged > 1000000000)) {
        char *line = error_text("binding '%s', key '%s': %s", arg_text(b->name), arg_text(key), error);
        RedisModule_Log(log_context, "warning", "%s", line + strlen("ERR "));
        RedisModule_Free(line);
        b->logged = now;
    }
    RedisModule_Free(b->last_error);
    b->last_error = error;
    if (b->last_error_key) RedisModule_FreeString(NULL, b->last_error_key);
    b->last_error_key = RedisModule_HoldString(NULL, key);
}

void work_note_error(Binding *b, RedisModuleString *key, char *error) {
    b->errors++;
    set_error(b, key, error);
}

void work_wait(Binding *b, RedisModuleString *key, char *error) {
    set_error(b, key, error);
    b->paused_until = monotonic_ns() + PAUSE_MS * 1000000LL;
    work_wake();
}

int work_is_for_now(const char *error) {
    static const char *const codes[] = {"OOM ", "TRYAGAIN ", "CLUSTERDOWN ", "READONLY ", "MISCONF ", NULL};
    for (int i = 0; codes[i]; i++) {
        if (strncmp(error, codes[i], strlen(codes[i])) == 0) return 1;
    }
    return strstr(error, "non local key") != NULL; /* the slot is on its way here, or away */
}

char *work_call(RedisModuleCtx *ctx, const char *command, RedisModuleString **argv, size_t argc) {
    /* !: replicate; C: as the context's user; E: errors as replies; M: no writes when out of memory. */
    RedisModuleCallReply *reply = RedisModule_Call(ctx, command, "!CEMv", argv, argc);
    if (reply == NULL) return error_text("%s cannot be called", command);
    char *error = NULL;
    if (RedisModule_CallReplyType(reply) == REDISMODULE_REPLY_ERROR) {
        size_t size;
        const char *text = RedisModule_CallReplyStringPtr(reply, &size);
        error = RedisModule_Calloc(1, size + 1);
        memcpy(error, text, size);
    }
    RedisModule_FreeCallReply(reply);
    for (size_t i = 0; i < argc; i++) {
        size_t size;
        RedisModule_StringPtrLen(argv[i], &size);
        event_loop_note_written(size);
    }
    return error;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* What the row holds, as a tensor of its own that shares the data. offsets: memory for those of a STRING. */
static Tensor row_of(const Tensor *tensor, int rows, int row, uint64_t *offsets) {
    Tensor own = *tensor;
    if (rows == 1) return own;
    own.length = tensor->length / rows;
    int64_t first = row * own.length;
    if (tensor->offsets == NULL) {
        own.size = tensor->size / rows;
        own.data = tensor->data + row * own.size;
        return own;
    }
    uint64_t start = own.length ? tensor->offsets[first] : 0;
    uint64_t end = first + own.length < tensor->length ? tensor->offsets[first + own.length] : tensor->size;
    for (int64_t i = 0; i < own.length; i++) offsets[i] = tensor->offsets[first + i] - start;
    own.data = tensor->data + start;
    own.size = own.length ? end - start : 0;
    own.offsets = offsets;
    return own;
}

RedisModuleString *work_value(const Run *run, const Batch *batch, int output, int row, int form, char **error) {
    const Binding *b = batch->binding;
    const Tensor *tensor = run->slots[b->ninputs + output];
    uint64_t *offsets = tensor->offsets ? RedisModule_Calloc(tensor->length / batch->rows + 1, sizeof(*offsets)) : NULL;
    Tensor own = row_of(tensor, batch->rows, row, offsets);
    if (form == FORM_OWN && own.length != 1) form = FORM_BLOB;
    RedisModuleString *value = hash_value(&own, form, b->nset ? b->outputs[output].name : b->name, error);
    RedisModule_Free(offsets);
    return value;
}

void work_replicate_done(RedisModuleCtx *ctx, const Binding *b, RedisModuleString **keys, size_t count) {
    RedisModule_Replicate(ctx, "AI._BOUND", "sv", b->name, keys, count);
}

/* Why the run has no result for each row, or NULL. */
static const char *find_failure(const Run *run, const Batch *batch) {
    const Binding *b = batch->binding;
    if (run->ops[0].state->error) return run->ops[0].state->error;
    for (int i = 0; i < b->noutputs; i++) {
        const Tensor *tensor = run->slots[b->ninputs + i];
        if (tensor == NULL) return "the run has too few outputs";
        if (batch->rows > 1 && (tensor->ndim == 0 || tensor->shape[0] != batch->rows)) {
            return "an output has no row for each row of the inputs";
        }
    }
    return NULL;
}

static RedisModuleUser *user_of(const Binding *b) { return RedisModule_GetModuleUserFromUserName(b->user); }

/* Only masters run models, once their data are there. */
static int acts(RedisModuleCtx *ctx) {
    int flags = RedisModule_GetContextFlags(ctx);
    return (flags & REDISMODULE_CTX_FLAGS_MASTER) && !(flags & REDISMODULE_CTX_FLAGS_LOADING);
}

static void drop_results(Batch *batch) {
    Binding *b = batch->binding;
    for (int i = 0; i < batch->npending; i++) {
        if (b->is_removed) {
            pending_free(b, batch->pending[i]);
        } else {
            pending_give_back(b, batch->pending[i], 1);
        }
    }
}

/* As a batch the rows have failed: each runs alone, so that only the guilty ones fail. */
static void run_alone(Batch *batch) {
    Binding *b = batch->binding;
    if (b->alone == 0) b->alone_failed = 0;
    b->alone += batch->rows;
    for (int i = batch->npending - 1; i >= 0; i--) pending_give_back(b, batch->pending[i], 1);
}

/* If every row of a failed batch succeeds alone, the model takes no batches. */
static void count_alone(const Batch *batch, int has_failed) {
    Binding *b = batch->binding;
    if (!batch->is_alone || b->alone == 0) return;
    b->alone_failed |= has_failed;
    if (--b->alone > 0 || b->alone_failed) return;
    b->unbatchable = batch->runnable;
    b->unbatchable_until = monotonic_ns() + BATCHES_AGAIN_S * 1000000000LL;
}

/* Whether all is written, or never will be. */
static int write(RedisModuleCtx *ctx, Batch *batch) {
    Binding *b = batch->binding;
    RedisModuleUser *user = user_of(b);
    if (b->is_removed || !acts(ctx) || user == NULL) { /* of the user, the next batch tells that */
        drop_results(batch);
        if (user) RedisModule_FreeModuleUser(user);
        return 1;
    }
    RedisModule_SelectDb(ctx, b->db);
    RedisModule_SetContextUser(ctx, user);
    pending_set_quiet(1);
    int is_over = (b->is_stream ? streams_write : hashes_write)(ctx, batch);
    pending_set_quiet(0);
    RedisModule_SetContextUser(ctx, NULL);
    RedisModule_FreeModuleUser(user);
    return is_over;
}

static void hold_slot(Batch *batch) {
    Binding *b = batch->binding;
    int slot = 0;
    while (b->batches[slot]) slot++;
    b->batches[slot] = batch;
    b->under_way++;
}

static void free_batch(Batch *batch) {
    Binding *b = batch->binding;
    for (int i = 0; i < MAX_UNDER_WAY; i++) {
        if (b->batches[i] == batch) b->batches[i] = NULL;
    }
    b->under_way--;
    if (b->reading == batch) b->reading = NULL;
    if (batch->rows_read.inputs) rows_free(&batch->rows_read);
    if (batch->run) run_unref(batch->run);
    for (int i = 0; i < batch->nentries; i++) RedisModule_Free(batch->errors[i]);
    RedisModule_Free(batch->errors);
    RedisModule_Free(batch->ids);
    RedisModule_Free(batch->pending);
    RedisModule_Free(batch->tag);
    RedisModule_Free(batch);
    binding_unref(b);
}

void work_drop_reading(Binding *b) {
    if (b->reading == NULL) return;
    drop_results(b->reading);
    free_batch(b->reading);
}

/* Writes as much as the iteration has time for. */
static void write_some(RedisModuleCtx *ctx, Task *task) {
    Batch *batch = (Batch *)task;
    int64_t begun = begin_slice();
    if (write(ctx, batch)) {
        free_batch(batch);
        work_wake();
    } else {
        event_loop_post(task);
    }
    end_slice(begun);
}

static void run_ended(RedisModuleCtx *ctx, Waiter *waiter) {
    Run *run = (Run *)waiter;
    Batch *batch = run->data;
    Binding *b = batch->binding;
    batch->task = (Task){.perform = write_some};
    batch->failure = find_failure(run, batch);
    batch->run = run;
    run_ref(run);
    b->runs++;
    if (batch->failure && batch->rows > 1 && !b->is_removed) {
        run_alone(batch);
        batch->npending = 0;
        free_batch(batch);
        work_wake();
        return;
    }
    if (!b->is_removed) count_alone(batch, batch->failure != NULL);
    if (batch->failure == NULL) b->rows += batch->rows;
    write_some(ctx, &batch->task);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

static int submit(Batch *batch, Runnable *runnable) {
    Binding *b = batch->binding;
    Run *run = run_new(1, b->ninputs + b->noutputs, b->ninputs, 0);
    if (rows_finish(&batch->rows_read, run->slots) == -1) {
        run_unref(run);
        return -1;
    }
    Op *op = run_add_op(run, runnable_ref(runnable), NULL, b->ninputs, b->ninputs, b->noutputs);
    if (b->function) op->function = arg_copy(b->function, NULL);
    run->user = arg_copy(b->user, NULL);
    run->data = batch;
    batch->rows = batch->rows_read.count;
    rows_free(&batch->rows_read);
    run_submit_alone(run, b->db, run_ended);
    return 0;
}

static Runnable *find_runnable_of(RedisModuleCtx *ctx, const Binding *b) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, b->runnable, REDISMODULE_READ);
    RedisModuleType *type = b->kind == KIND_MODEL ? ModelType : ScriptType;
    Runnable *runnable = NULL;
    if (key && RedisModule_ModuleTypeGetType(key) == type) runnable = RedisModule_ModuleTypeGetValue(key);
    if (key) RedisModule_CloseKey(key);
    return runnable;
}

static int most_rows(const Binding *b, const Runnable *runnable) {
    int64_t size = runnable->kind == KIND_MODEL ? ((const Model *)runnable)->limits.batchsize : 0;
    if (b->alone || (b->unbatchable == runnable->id && monotonic_ns() < b->unbatchable_until)) return 1;
    return size == 0 ? DEFAULT_BATCH : size < MAX_BATCH ? (int)size : MAX_BATCH;
}

/* Why nothing can be run now, or NULL. */
static const char *find_refusal(const Binding *b, RedisModuleUser *user, const Runnable *runnable) {
    if (runnable == NULL) {
        return b->kind == KIND_MODEL ? "there is no model at this key; what is bound waits for it"
                                     : "there is no script at this key; what is bound waits for it";
    }
    if (carrier_is_set_aside(runnable)) {
        return "engine processes have ended under it, so it is set aside; what is bound waits for its release";
    }
    if (RedisModule_ACLCheckKeyPermissions(user, b->runnable, REDISMODULE_CMD_KEY_ACCESS) != REDISMODULE_OK) {
        return "NOPERM the binding's user may not read this key";
    }
    if (runnable->kind != KIND_MODEL) return NULL;
    Range inputs = model_input_range((const Model *)runnable), outputs = model_output_range((const Model *)runnable);
    if (b->ninputs < inputs.least || b->ninputs > inputs.most) return "the model has another number of inputs";
    if (b->noutputs < outputs.least || b->noutputs > outputs.most) return "the model has another number of outputs";
    return NULL;
}

static Batch *new_batch(Binding *b, const Runnable *runnable) {
    Batch *batch = RedisModule_Calloc(1, sizeof(*batch));
    *batch = (Batch){.binding = b, .runnable = runnable->id, .is_alone = b->alone > 0, .tag_size = runnable->tag_size};
    batch->tag = RedisModule_Alloc(runnable->tag_size + 1);
    memcpy(batch->tag, runnable->tag, runnable->tag_size);
    b->refs++;
    return batch;
}

/* The batch that is read, or a new one. */
static Batch *batch_to_read(Binding *b, const Runnable *runnable) {
    if (b->reading && b->reading->runnable != runnable->id) work_drop_reading(b);
    if (b->reading == NULL) {
        b->reading = new_batch(b, runnable);
        hold_slot(b->reading);
        if (rows_begin(&b->reading->rows_read, b, most_rows(b, runnable)) == -1) return NULL;
    }
    return b->reading;
}

/* Reads what is pending, as much as one batch takes, and runs it. Where the iteration has no time for all, it goes on
 * in the next. */
static void read_batch(RedisModuleCtx *ctx, Binding *b, RedisModuleUser *user, Runnable *runnable) {
    Batch *batch = batch_to_read(b, runnable);
    if (batch) {
        int is_over = (b->is_stream ? streams_read : hashes_read)(ctx, user, batch);
        if (!is_over) return;
        if (batch->npending == 0) { /* no key has become a row */
            free_batch(batch);
            return;
        }
        b->reading = NULL;
        if (submit(batch, runnable) == 0) return;
        b->reading = batch;
    }
    work_drop_reading(b);
    work_wait(b, b->runnable, RedisModule_Strdup("there is no memory for a batch"));
}

static void begin(RedisModuleCtx *ctx, Binding *b) {
    RedisModuleUser *user = user_of(b);
    if (user == NULL) {
        work_wait(b, b->user,
                  RedisModule_Strdup("the user who made the binding is gone; keys wait for a user of that name"));
        return;
    }
    RedisModule_SelectDb(ctx, b->db);
    Runnable *runnable = find_runnable_of(ctx, b);
    const char *refusal = find_refusal(b, user, runnable);
    if (refusal) {
        work_drop_reading(b);
        work_wait(b, b->runnable, RedisModule_Strdup(refusal));
    } else {
        RedisModule_SetContextUser(ctx, user);
        pending_set_quiet(1);
        read_batch(ctx, b, user, runnable);
        pending_set_quiet(0);
        RedisModule_SetContextUser(ctx, NULL);
    }
    RedisModule_FreeModuleUser(user);
}

/* ---- AI.BINDRUN -------------------------------------------------------------------------------------------------- */

static void fill_key(Binding *b, RedisModuleString *key, void *data) {
    if (b != data) return;
    if (b->is_stream || !pending_find(b, key)) pending_add(b, key)->from = (RedisModuleStreamID){0, 0};
}

static void scanned(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleKey *key, void *data) {
    Binding *b = data;
    b->filled++;
    int type = key ? RedisModule_KeyType(key) : REDISMODULE_KEYTYPE_EMPTY;
    if (key && type != (b->is_stream ? REDISMODULE_KEYTYPE_STREAM : REDISMODULE_KEYTYPE_HASH)) return;
    bindings_of_key(ctx, name, fill_key, b);
}

static void begin_filling(RedisModuleCtx *ctx, Binding *b) {
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "DBSIZE", "");
    b->to_fill = reply ? RedisModule_CallReplyInteger(reply) : 0;
    if (reply) RedisModule_FreeCallReply(reply);
    b->filled = 0;
    b->cursor = RedisModule_ScanCursorCreate();
}

/* Goes over some keys of the database. */
static void fill(RedisModuleCtx *ctx, Binding *b) {
    int more = 1;
    RedisModule_SelectDb(ctx, b->db);
    if (b->cursor == NULL) begin_filling(ctx, b);
    while (more && b->npending < FILL_AHEAD && work_has_time()) more = RedisModule_Scan(ctx, b->cursor, scanned, b);
    if (more) return;
    RedisModule_ScanCursorDestroy(b->cursor);
    b->cursor = NULL;
    b->is_filling = 0;
    work_replicate_done(ctx, b, NULL, 0);
}

/* ---- the task ---------------------------------------------------------------------------------------------------- */

static int can_begin(const Binding *b) {
    return (b->reading || (b->first && b->under_way < MAX_UNDER_WAY)) && b->paused_until <= monotonic_ns();
}

static int can_fill(const Binding *b) { return b->is_filling && b->npending < FILL_AHEAD; }

/* AI.BINDRUN comes last: what clients write does not wait for it. */
static void go_on_with(RedisModuleCtx *ctx, Binding *b) {
    while (work_has_time() && can_begin(b)) begin(ctx, b);
    if (work_has_time() && can_fill(b)) fill(ctx, b);
}

/* Each binding in its turn: the one for which there is no time is the first in the next iteration. */
static int go_on_with_all(RedisModuleCtx *ctx) {
    int more = 0, number = 0, stopped = -1;
    for (int pass = 0; pass < 2; pass++) {
        number = 0;
        for (Binding *b = bindings_first(); b; b = b->next, number++) {
            if ((number < work.turn) != pass) continue;
            if (!work_has_time() && stopped == -1) stopped = number;
            if (work_has_time()) go_on_with(ctx, b);
            more |= can_begin(b) || can_fill(b);
        }
    }
    work.turn = stopped == -1 || stopped >= number ? 0 : stopped;
    return more;
}

static void go_on(RedisModuleCtx *ctx, Task *task) {
    int64_t begun = begin_slice();
    int more = pending_free_cleared(), waits = 0, is_acting = acts(ctx);
    work.is_posted = 0;
    if (is_acting) more |= go_on_with_all(ctx); /* else the event that changes this wakes it */
    for (Binding *b = bindings_first(); b; b = b->next) {
        if (!is_acting) work_drop_reading(b);
        waits |= is_acting && (b->first || b->reading) && b->paused_until > begun;
    }
    if (more) work_wake();
    if (waits) set_timer();
    end_slice(begun);
}

/* Drops results that are under way: the keys of this database (-1: of all) are others now. */
static void forget_running(int db) {
    for (Binding *b = bindings_first(); b; b = b->next) {
        if (db != -1 && b->db != db) continue;
        for (int i = 0; i < MAX_UNDER_WAY; i++) {
            const Batch *batch = b->batches[i];
            for (int j = 0; batch && j < batch->npending; j++) {
                batch->pending[j]->is_gone = 1;
                batch->pending[j]->has_changed = 0;
            }
        }
    }
}

static void role_changed(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) { work_wake(); }

static void flushed(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    int db = ((const RedisModuleFlushInfo *)data)->dbnum;
    forget_running(db);
    for (Binding *b = bindings_first(); b; b = b->next) {
        if (db == -1 || b->db == db) pending_clear(b);
    }
}

static void swapped(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    const RedisModuleSwapDbInfo *info = data;
    forget_running(info->dbnum_first);
    forget_running(info->dbnum_second);
}

int work_init(RedisModuleCtx *ctx) {
    work.ctx = RedisModule_GetDetachedThreadSafeContext(ctx);
    return listen_to(ctx, REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, role_changed) ||
           listen_to(ctx, REDISMODULE_EVENT_FLUSHDB, flushed) || listen_to(ctx, REDISMODULE_EVENT_SWAPDB, swapped);
}
