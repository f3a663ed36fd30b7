/* hashes.c - bindings of hashes: their fields become rows, and results become fields (bindings.h). Main thread only. */
#include <string.h>

#include "bindings/bindings.h"
#include "redis/command.h"
#include "values/tensor.h"

/* Keys that are not pending any more; their strings. */
typedef struct Done {
    RedisModuleString **keys;
    size_t count;
} Done;

static void begin_done(Done *done, int capacity) {
    *done = (Done){.keys = RedisModule_Alloc(capacity * sizeof(*done->keys))};
}

/* The key has its newest result, or an error. Unless it has changed meanwhile: then it runs again. */
static void settle(Binding *b, Pending *pending, Done *done) {
    if (pending->has_changed) {
        pending->since = pending->changed;
        pending_give_back(b, pending, 0);
        return;
    }
    done->keys[done->count++] = RedisModule_HoldString(NULL, pending->key);
    pending_free(b, pending);
}

static void end_done(RedisModuleCtx *ctx, const Binding *b, Done *done) {
    if (done->count) work_replicate_done(ctx, b, done->keys, done->count);
    for (size_t i = 0; i < done->count; i++) RedisModule_FreeString(NULL, done->keys[i]);
    RedisModule_Free(done->keys);
}

/* NULL: there is no hash at the key. */
static RedisModuleKey *open_hash(RedisModuleCtx *ctx, RedisModuleString *name) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key == NULL || RedisModule_KeyType(key) == REDISMODULE_KEYTYPE_HASH) return key;
    RedisModule_CloseKey(key);
    return NULL;
}

static RedisModuleString *field_of(void *key, const RedisModuleString *field) {
    RedisModuleString *value = NULL;
    RedisModule_HashGet(key, REDISMODULE_HASH_NONE, field, &value, NULL);
    return value;
}

/* Sets the field of ERROR. Where even that fails, the counted error tells enough. */
static void write_error(RedisModuleCtx *ctx, const Binding *b, RedisModuleString *key, const char *text) {
    if (b->error == NULL) return;
    RedisModuleString *value = RedisModule_CreateString(NULL, text, strlen(text));
    RedisModuleString *argv[] = {key, b->error, value};
    RedisModule_Free(work_call(ctx, "HSET", argv, 3));
    RedisModule_FreeString(NULL, value);
}

static void fail(RedisModuleCtx *ctx, Binding *b, RedisModuleString *key, char *error) {
    write_error(ctx, b, key, error);
    work_note_error(b, key, error);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Where there is no hash, nothing is to be run, but its vector must go. */
static void remove_vector(RedisModuleCtx *ctx, Binding *b, RedisModuleString *key) {
    RedisModuleString *argv[] = {b->vector_set, key};
    char *error = b->vector_set ? work_call(ctx, "VREM", argv, 2) : NULL;
    if (error) work_note_error(b, key, error);
}

/* Whether the key has become a row. */
static int read_hash(RedisModuleCtx *ctx, RedisModuleUser *user, Binding *b, RedisModuleString *name, Rows *rows) {
    RedisModuleKey *key = open_hash(ctx, name);
    if (key == NULL) {
        remove_vector(ctx, b, name);
        return 0;
    }
    int access = REDISMODULE_CMD_KEY_ACCESS | REDISMODULE_CMD_KEY_UPDATE;
    if (RedisModule_ACLCheckKeyPermissions(user, name, access) != REDISMODULE_OK) {
        RedisModule_CloseKey(key);
        work_note_error(b, name, RedisModule_Strdup("NOPERM the binding's user may not read and change this key"));
        return 0;
    }
    char *error = rows_add(rows, field_of, key);
    RedisModule_CloseKey(key);
    if (error) fail(ctx, b, name, error);
    return error == NULL;
}

int hashes_read(RedisModuleCtx *ctx, RedisModuleUser *user, Batch *batch) {
    Binding *b = batch->binding;
    Rows *rows = &batch->rows_read;
    int left = 2 * rows->capacity, is_over = 0;
    Done done;
    begin_done(&done, left);
    if (batch->pending == NULL) batch->pending = RedisModule_Alloc(rows->capacity * sizeof(*batch->pending));
    do {
        Pending *pending = b->first;
        if (pending) pending_take(b, pending);
        if (pending && read_hash(ctx, user, b, pending->key, rows)) {
            batch->pending[batch->npending++] = pending;
        } else if (pending) {
            settle(b, pending, &done);
        }
        is_over = --left == 0 || b->first == NULL || rows_are_full(rows);
    } while (!is_over && work_has_time());
    end_done(ctx, b, &done);
    return is_over;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* key field value ... */
typedef struct Words {
    RedisModuleString **words;
    size_t count;
} Words;

static void free_values(Words *w) {
    for (size_t i = 2; i < w->count; i += 2) RedisModule_FreeString(NULL, w->words[i]);
    RedisModule_Free(w->words);
}

static char *set_fields(RedisModuleCtx *ctx, const Batch *batch, const Run *run, int row, RedisModuleString *key) {
    const Binding *b = batch->binding;
    char *error = NULL;
    Words w = {.words = RedisModule_Alloc((2 * b->nset + 3) * sizeof(*w.words)), .count = 1};
    w.words[0] = key;
    for (int i = 0; i < b->nset && !error; i++) {
        RedisModuleString *value = work_value(run, batch, i, row, b->outputs[i].form, &error);
        if (value == NULL) break;
        w.words[w.count++] = b->outputs[i].name;
        w.words[w.count++] = value;
    }
    if (b->version && !error) {
        w.words[w.count++] = b->version;
        w.words[w.count++] = RedisModule_CreateString(NULL, batch->tag, batch->tag_size);
    }
    if (!error && w.count > 1) error = work_call(ctx, "HSET", w.words, w.count);
    free_values(&w);
    return error;
}

static char *add_vector(RedisModuleCtx *ctx, const Batch *batch, const Run *run, int row, RedisModuleString *key) {
    const Binding *b = batch->binding;
    if (run->slots[b->ninputs]->dtype != dtype_from_name("FLOAT", 5)) {
        return RedisModule_Strdup("ERR VECTORSET needs an output of the type FLOAT");
    }
    char *error = NULL;
    RedisModuleString *value = work_value(run, batch, 0, row, FORM_BLOB, &error);
    if (value == NULL) return error;
    RedisModuleString *format = RedisModule_CreateString(NULL, "FP32", 4);
    RedisModuleString *argv[] = {b->vector_set, format, value, key};
    error = work_call(ctx, "VADD", argv, 4);
    RedisModule_FreeString(NULL, format);
    RedisModule_FreeString(NULL, value);
    return error;
}

static char *write_result(RedisModuleCtx *ctx, const Batch *batch, const Run *run, int row, RedisModuleString *key) {
    const Binding *b = batch->binding;
    char *error = set_fields(ctx, batch, run, row, key);
    if (error == NULL && b->vector_set) error = add_vector(ctx, batch, run, row, key);
    RedisModuleString *argv[] = {key, b->error};
    if (error == NULL && b->error) error = work_call(ctx, "HDEL", argv, 2);
    return error;
}

int hashes_write(RedisModuleCtx *ctx, Batch *batch) {
    Binding *b = batch->binding;
    Done done;
    begin_done(&done, batch->npending);
    do {
        int row = --batch->npending; /* from the last on, so the batch has those that are not written */
        Pending *pending = batch->pending[row];
        RedisModuleKey *key = pending->is_gone ? NULL : open_hash(ctx, pending->key);
        if (key) {
            RedisModule_CloseKey(key);
            char *error = batch->failure ? RedisModule_Strdup(batch->failure)
                                         : write_result(ctx, batch, batch->run, row, pending->key);
            if (error && work_is_for_now(error)) {
                pending_give_back(b, pending, 1);
                work_wait(b, pending->key, error);
                continue;
            }
            if (error) fail(ctx, b, pending->key, error);
        }
        settle(b, pending, &done);
    } while (batch->npending && work_has_time());
    end_done(ctx, b, &done);
    return batch->npending == 0;
}
