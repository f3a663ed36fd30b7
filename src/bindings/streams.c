/* streams.c - bindings of streams: each new entry becomes a row, and its result an entry of another stream
 * (bindings.h). Main thread only.
 *
 * How far a stream has been read is what a consumer group of the binding's name says: so that lies in the stream
 * itself, is saved, replicated and moved with it, and XINFO GROUPS tells it. It moves in the transaction that adds the
 * results. One run at a time has entries of a stream, so they stay in order. */
#include <stdio.h>
#include <string.h>

#include "bindings/bindings.h"
#include "redis/command.h"

#define ID_TEXT 48

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int text_is(RedisModuleCallReply *reply, const char *text, size_t length) {
    size_t size;
    const char *bytes = reply ? RedisModule_CallReplyStringPtr(reply, &size) : NULL;
    return bytes && size == length && memcmp(bytes, text, size) == 0;
}

static RedisModuleCallReply *item(RedisModuleCallReply *reply, size_t index) {
    return RedisModule_CallReplyArrayElement(reply, index);
}

/* An ID of a reply. */
static RedisModuleStreamID parse_id(RedisModuleCallReply *reply) {
    RedisModuleStreamID id = {0, 0};
    size_t size;
    const char *bytes = RedisModule_CallReplyStringPtr(reply, &size);
    char text[ID_TEXT];
    snprintf(text, sizeof(text), "%.*s", (int)size, bytes ? bytes : "");
    sscanf(text, "%lu-%lu", &id.ms, &id.seq);
    return id;
}

static void print_id(RedisModuleStreamID id, char text[ID_TEXT]) { snprintf(text, ID_TEXT, "%lu-%lu", id.ms, id.seq); }

/* Finds the position of the group that has this name: 1, 0 where there is no such group. */
static int find_position(RedisModuleCallReply *groups, const RedisModuleString *group, RedisModuleStreamID *position) {
    size_t size;
    const char *name = RedisModule_StringPtrLen(group, &size);
    for (size_t i = 0; i < RedisModule_CallReplyLength(groups); i++) {
        RedisModuleCallReply *fields = item(groups, i);
        if (!text_is(item(fields, 1), name, size)) continue;
        for (size_t j = 0; j + 1 < RedisModule_CallReplyLength(fields); j += 2) {
            if (text_is(item(fields, j), "last-delivered-id", 17)) *position = parse_id(item(fields, j + 1));
        }
        return 1;
    }
    return 0;
}

static RedisModuleStreamID before(RedisModuleStreamID id) {
    if (id.seq) return (RedisModuleStreamID){id.ms, id.seq - 1};
    return id.ms ? (RedisModuleStreamID){id.ms - 1, UINT64_MAX} : id;
}

/* XGROUP CREATE, or SETID. Returns an error, which the caller frees, or NULL. */
static char *set_position(RedisModuleCtx *ctx, const Binding *b, RedisModuleString *key, const char *word,
                          RedisModuleStreamID id) {
    char text[ID_TEXT];
    print_id(id, text);
    RedisModuleString *argv[] = {RedisModule_CreateString(NULL, word, strlen(word)), key, b->name,
                                 RedisModule_CreateString(NULL, text, strlen(text))};
    char *error = work_call(ctx, "XGROUP", argv, 4);
    RedisModule_FreeString(NULL, argv[0]);
    RedisModule_FreeString(NULL, argv[3]);
    return error;
}

static char *error_of(RedisModuleCallReply *reply) {
    if (reply && RedisModule_CallReplyType(reply) != REDISMODULE_REPLY_ERROR) return NULL;
    size_t size = 0;
    const char *text = reply ? RedisModule_CallReplyStringPtr(reply, &size) : NULL;
    return text ? error_text("%.*s", (int)size, text) : error_text("the stream cannot be read");
}

/* Where the binding goes on. Makes its group where the stream has none. Returns an error, or NULL. */
static char *begin_at(RedisModuleCtx *ctx, const Binding *b, const Pending *pending, RedisModuleStreamID *position) {
    RedisModuleCallReply *groups = RedisModule_Call(ctx, "XINFO", "CEcs", "GROUPS", pending->key);
    char *error = error_of(groups);
    int found = error == NULL && find_position(groups, b->name, position);
    if (groups) RedisModule_FreeCallReply(groups);
    if (error || found) return error;
    *position = before(pending->from);
    return set_position(ctx, b, pending->key, "CREATE", *position);
}

static RedisModuleString *field_of(void *fields, const RedisModuleString *field) {
    size_t size, value_size;
    const char *name = RedisModule_StringPtrLen(field, &size);
    for (size_t i = 0; i + 1 < RedisModule_CallReplyLength(fields); i += 2) {
        if (!text_is(item(fields, i), name, size)) continue;
        const char *value = RedisModule_CallReplyStringPtr(item(fields, i + 1), &value_size);
        return RedisModule_CreateString(NULL, value, value_size);
    }
    return NULL;
}

static void read_entries(Batch *batch, Rows *rows, RedisModuleCallReply *entries) {
    size_t count = RedisModule_CallReplyLength(entries);
    batch->ids = RedisModule_Calloc(count + 1, sizeof(*batch->ids));
    batch->errors = RedisModule_Calloc(count + 1, sizeof(*batch->errors));
    for (size_t i = 0; i < count && !rows_are_full(rows); i++) {
        batch->ids[i] = parse_id(item(item(entries, i), 0));
        batch->errors[i] = rows_add(rows, field_of, item(item(entries, i), 1));
        batch->nentries++;
    }
}

static int is_stream(RedisModuleCtx *ctx, RedisModuleString *name) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    int is = key && RedisModule_KeyType(key) == REDISMODULE_KEYTYPE_STREAM;
    if (key) RedisModule_CloseKey(key);
    return is;
}

static void end(RedisModuleCtx *ctx, Binding *b, Pending *pending) {
    RedisModuleString *key = RedisModule_HoldString(NULL, pending->key);
    pending_free(b, pending);
    work_replicate_done(ctx, b, &key, 1);
    RedisModule_FreeString(NULL, key);
}

void streams_begin(RedisModuleCtx *ctx, RedisModuleUser *user, Batch *batch, Rows *rows) {
    Binding *b = batch->binding;
    Pending *pending = b->first;
    RedisModuleStreamID position = {0, 0};
    char from[ID_TEXT + 1] = "(";
    pending_take(b, pending);
    if (!is_stream(ctx, pending->key)) {
        end(ctx, b, pending);
        return;
    }
    RedisModuleCallReply *entries = NULL;
    char *error = begin_at(ctx, b, pending, &position);
    if (error == NULL) {
        print_id(position, from + 1);
        entries =
            RedisModule_Call(ctx, "XRANGE", "CEscccl", pending->key, from, "+", "COUNT", (long long)rows->capacity);
        error = error_of(entries);
    }
    if (error) {
        pending_give_back(b, pending, 1);
        work_wait(b, pending->key, error);
    } else if (RedisModule_CallReplyLength(entries) == 0) {
        end(ctx, b, pending);
    } else {
        batch->pending = RedisModule_Alloc(sizeof(*batch->pending));
        batch->pending[batch->npending++] = pending;
        read_entries(batch, rows, entries);
    }
    if (entries) RedisModule_FreeCallReply(entries);
    if (batch->npending && rows->count == 0) {
        streams_write(ctx, batch, NULL, NULL);
        batch->npending = 0;
    }
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct Words {
    RedisModuleString **words;
    size_t count;
} Words;

static void add(Words *w, const char *text, size_t size) {
    w->words[w->count++] = RedisModule_CreateString(NULL, text, size);
}

static void add_text(Words *w, const char *text) { add(w, text, strlen(text)); }
static void add_name(Words *w, RedisModuleString *name) { w->words[w->count++] = RedisModule_HoldString(NULL, name); }

/* stream [MAXLEN ~ n] * stream key id id: then come the fields of the result. */
static void add_head(Words *w, const Binding *b, const Pending *pending, RedisModuleStreamID id) {
    char text[ID_TEXT];
    add_name(w, b->stream);
    if (b->maxlen) {
        add_text(w, "MAXLEN");
        add_text(w, "~");
        w->words[w->count++] = RedisModule_CreateStringFromLongLong(NULL, b->maxlen);
    }
    add_text(w, "*");
    add_text(w, "stream");
    add_name(w, pending->key);
    print_id(id, text);
    add_text(w, "id");
    add_text(w, text);
}

/* Adds the result's fields. Returns an error, or NULL. */
static char *add_result(Words *w, const Batch *batch, const Run *run, int row) {
    const Binding *b = batch->binding;
    char *error = NULL;
    for (int i = 0; i < b->nset; i++) {
        RedisModuleString *value = work_value(run, batch, i, row, b->outputs[i].form, &error);
        if (value == NULL) return error;
        add_name(w, b->outputs[i].name);
        w->words[w->count++] = value;
    }
    if (b->version) {
        add_name(w, b->version);
        add(w, batch->tag, batch->tag_size);
    }
    return NULL;
}

static void free_words(Words *w) {
    for (size_t i = 0; i < w->count; i++) RedisModule_FreeString(NULL, w->words[i]);
    RedisModule_Free(w->words);
}

/* Adds the entry's result, or with ERROR why there is none. Returns why that cannot be written, or NULL. */
static char *write_entry(RedisModuleCtx *ctx, Batch *batch, const Run *run, int entry, int row, const char *failure) {
    Binding *b = batch->binding;
    const Pending *pending = batch->pending[0];
    Words w = {.words = RedisModule_Alloc((2 * b->nset + 16) * sizeof(*w.words))};
    add_head(&w, b, pending, batch->ids[entry]);
    char *error = failure ? RedisModule_Strdup(failure) : add_result(&w, batch, run, row), *refusal = NULL;
    if (error && b->error) {
        Words own = {.words = RedisModule_Alloc(16 * sizeof(*w.words))};
        add_head(&own, b, pending, batch->ids[entry]);
        add_name(&own, b->error);
        add_text(&own, error);
        refusal = work_call(ctx, "XADD", own.words, own.count);
        free_words(&own);
    }
    if (error == NULL) refusal = work_call(ctx, "XADD", w.words, w.count);
    free_words(&w);
    if (error && refusal == NULL) work_note_error(b, pending->key, error);
    if (error && refusal) RedisModule_Free(error);
    return refusal;
}

void streams_write(RedisModuleCtx *ctx, Batch *batch, const Run *run, const char *failure) {
    Binding *b = batch->binding;
    Pending *pending = batch->pending[0];
    char *refusal = NULL;
    int written = 0, row = 0;
    for (; written < batch->nentries && !pending->is_gone; written++) {
        const char *error = batch->errors[written];
        refusal = write_entry(ctx, batch, run, written, row, error ? error : failure);
        if (refusal) break;
        row += error == NULL;
    }
    if (written) {
        char *error = set_position(ctx, b, pending->key, "SETID", batch->ids[written - 1]);
        if (error) RedisModule_Free(refusal);
        if (error) refusal = error;
    }
    pending_give_back(b, pending, b->alone > 0 || refusal); /* until there is no entry left */
    if (refusal) work_wait(b, pending->key, refusal);
}
